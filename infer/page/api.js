// Requests to this node: with its token, and its errors in its own words.

import { askForToken, bearer } from "./token.js";

/** As `fetch`; a node that wants another token gets it first. */
export async function ask(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers, ...bearer() };
    const answer = await fetch(path, { cache: "no-store", ...options, headers });
    if (answer.status !== 401) return answer;
    await askForToken();
  }
}

export async function askJson(path, options) {
  const answer = await ask(path, options);
  if (!answer.ok) throw new Error(await errorText(answer));
  return answer.json();
}

/** What an answer that is an error says, in either dialect. */
export async function errorText(answer) {
  try {
    const { error } = await answer.json();
    return error.message ?? error;
  } catch {
    return `the node answered ${answer.status}`;
  }
}
