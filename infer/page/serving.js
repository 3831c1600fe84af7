// Which releases this node holds, which of them answers, and how quickly.

import { Table, find, say } from "./dom.js";
import { NONE, count, duration, latency, percent } from "./words.js";

const within = (seconds, total) => (!total ? NONE : seconds === null ? "> 10 s" : `≤ ${latency(seconds)}`);

const columns = [
  { title: "release", left: true, text: (h) => count(h.release) },
  { title: "is", left: true, text: (h) => h.is.join(", ") },
  { title: "versions", left: true, text: (h) => h.versions || NONE },
  { title: "age", text: (h) => duration(h.age_s) },
  { title: "answers", text: (h) => count(h.answers) },
  { title: "half within", text: (h) => within(h.latency?.half_within_s, h.latency?.count) },
  { title: "95 % within", text: (h) => within(h.latency?.most_within_s, h.latency?.count) },
];

export class ServingView {
  constructor() {
    this.table = new Table(document.querySelector("#serving .table"), columns, (h) => h.release);
    say(find("command"), `gradmq serving pin ${location.origin} RELEASE`);
  }

  show(node) {
    const held = node.held.map((each) => ({
      ...each,
      is: roles(node, each),
      latency: node.latency_by_release[each.release],
    }));
    this.table.show(held.reverse());
    say(find("mode"), modeText(node));
    say(find("requests"), requestsText(node));
    const { count: skipped, release, reason } = node.turned_down;
    const last = skipped ? `skipped ${count(skipped)} releases; the last was ${count(release)}: it ${reason}` : "";
    say(find("skipped"), last);
  }
}

/** What a release is here: its labels, and whether it answers, or which share of the requests. */
function roles({ mode, weights, release, newest }, held) {
  if (mode !== "split") return [...(held.release === release ? ["◂ what answers"] : []), ...held.labels];
  const total = Object.values(weights).reduce((a, b) => a + b, 0);
  const names = held.release === newest ? [...held.labels, "newest"] : held.labels;
  return names.map((name) => (weights[name] ? `◂ ${percent(weights[name] / total)} ${name}` : name));
}

function modeText({ mode, text }) {
  if (mode === "newest") return "The newest one answers.";
  return mode === "split" ? "They share the requests." : text;
}

function requestsText(node) {
  const { answered, refused, failed } = node.requests;
  const counts = `requests: ${count(answered)} answered, ${count(refused)} refused, ${count(failed)} failed, `;
  const { latency: all } = node;
  const times = all.count ? `; half ${within(all.half_within_s, 1)}, 95 % ${within(all.most_within_s, 1)}` : "";
  return `${counts}${count(node.waiting)} waiting${times}`;
}
