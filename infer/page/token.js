// The node's token, where it asks for one: kept for this tab, sent as a header, never in an address.

import { find, say } from "./dom.js";

const KEY = "gradmq-token";

let asking = null;

/** What every request bears. */
export function bearer() {
  const token = sessionStorage.getItem(KEY);
  return token ? { authorization: `Bearer ${token}` } : {};
}

/** Whether a token is being asked for. */
export function asksForToken() {
  return asking !== null;
}

/** Ask for a token, unless that is being done already; resolves when one was given. */
export function askForToken() {
  asking ??= new Promise((resolve) => {
    const form = find("token");
    const field = find("token-field");
    say(find("token-said"), sessionStorage.getItem(KEY) ? "That is not this node's token." : "");
    form.hidden = false;
    field.value = "";
    field.focus();
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, field.value.trim());
      form.hidden = true;
      asking = null;
      resolve();
    };
  });
  return asking;
}
