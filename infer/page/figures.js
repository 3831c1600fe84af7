// The strip of figures at the top.

import { el, find, say } from "./dom.js";
import { NONE, count, duration, rate, reading } from "./words.js";

const tiles = new Map();

function tile(key, title, value, note, ofRun = false) {
  let made = tiles.get(key);
  if (!made) {
    made = { title: el("dt"), value: el("dd"), note: el("dd", { class: "note" }) };
    made.element = el("div", { class: ofRun ? "of-run" : null }, made.title, made.value, made.note);
    tiles.set(key, made);
    find("figures").append(made.element);
  }
  made.element.hidden = false;
  say(made.title, title);
  say(made.value, value);
  say(made.note, note);
}

export function showFigures({ node, run }) {
  for (const made of tiles.values()) made.element.hidden = true;
  const release = node.release === null ? NONE : count(node.release);
  tile("release", "release", release, `${count(node.swaps)} swaps`);
  const isNewest = node.release === node.newest;
  const behind = isNewest ? "since named the newest" : `newest held is ${count(node.newest)}`;
  tile("age", "age", duration(node.age_s), run === null ? "since it was loaded" : behind);
  if (run === null || run.silent_s === null) {
    tile("requests", "requests", count(node.requests.answered), "answered");
    return;
  }
  tile("rate", "updates/s", rate(run.updates_per_s), `${count(run.updates)} updates`, true);
  tile("loss", "loss", reading(run.loss), "mean of the last 5 s", true);
  const metric = run.metric;
  if (metric) {
    const best = metric.best === null ? "" : `best ${reading(metric.best)}, `;
    tile("metric", metric.name, reading(metric.last), `${best}first ${reading(metric.first)}`, true);
  }
  const live = run.workers.filter((worker) => worker.live);
  const samples = live.reduce((sum, worker) => sum + worker.samples_per_s, 0);
  tile("workers", "workers", count(live.length), `${rate(samples)} samples/s`, true);
}
