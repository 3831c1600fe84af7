// How things are, in one sentence: the first part changes seldom and is read aloud, the second counts.

import { find, say } from "./dom.js";
import { asksForToken } from "./token.js";
import { count, duration } from "./words.js";

/** The node asks the broker every second, so it misses two answers before this says so. */
const BROKER_SILENT_S = 3;

const PHASES = { waiting: "starting", open: "training", draining: "finishing" };

/** [kind, sentence, what follows it and changes]; kind is good, quiet or trouble. */
function state(report, stream) {
  if (!stream.open) return lost(report, stream);
  const { node, run } = report;
  if (node.release === null && run === null) return ["quiet", "nothing is served yet", ""];
  if (run === null) return ["good", "serving what was saved", ""];
  if (run.silent_s === null) return ["quiet", "waiting for the broker's word on the run", ""];
  if (run.silent_s > BROKER_SILENT_S) {
    return ["trouble", "the broker is away", ` for ${duration(run.silent_s)}; ${serving(node)}`];
  }
  if (run.waiting_for) return ["quiet", `starting: waits for ${run.waiting_for}`, ""];
  if (node.release === null) return ["quiet", "waiting for the first release", ""];
  if (run.phase === "open" && !run.workers.some((worker) => worker.live)) {
    return ["quiet", "no worker is here: nothing is being trained", `; ${serving(node)}`];
  }
  return ["good", PHASES[run.phase] ?? run.phase, `, watched for ${duration(run.elapsed_s)}`];
}

function lost(report, stream) {
  if (asksForToken()) return ["quiet", "waiting for the node's token", ""];
  if (stream.refusal) return ["trouble", `the node does not tell: ${stream.refusal}`, ""];
  if (report === null && stream.silentS() < 2) return ["quiet", "asking the node", ""];
  const had = report?.node.release ? `; it served release ${count(report.node.release)}` : "";
  const since = ` for ${duration(stream.silentS())}${had}; asking again`;
  if (stream.ended) return ["trouble", "the node has stopped, no answer", since];
  return ["trouble", "no answer from the node", since];
}

function serving(node) {
  if (node.release === null) return "nothing to serve yet";
  return `serving release ${count(node.release)}, ${duration(node.age_s)} old`;
}

const MARKS = { good: "●", quiet: "○", trouble: "▲" };

export function showState(report, stream) {
  const [kind, sentence, more] = state(report, stream);
  find("state").className = kind;
  say(find("mark"), MARKS[kind]);
  say(find("said"), sentence);
  say(find("since"), more);
  const { classList } = find("main");
  classList.toggle("stale", report !== null && !stream.open);
  classList.toggle("run-stale", stream.open && report.run?.silent_s > BROKER_SILENT_S);
  classList.toggle("alone", report !== null && report.run === null);
}
