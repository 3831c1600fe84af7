// The run: workers, the staleness of what they push, shards, and who follows.

import { Bars } from "./bars.js";
import { Table, find, say } from "./dom.js";
import { NONE, count, duration, percent, rate, reading, reasons } from "./words.js";

/** More rows are not read; wider ranges are. */
const MOST_BARS = 10;

const SIGNS = { absent: "○", away: "▲", silent: "▲", quarantined: "▲", waits: "○" };

const waits = (member) => (member.wait ? [`${SIGNS[member.wait]} ${member.wait_text}`] : []);

function oddities(worker) {
  const odd = waits(worker);
  if (Object.values(worker.rejected).some(Boolean)) odd.push(`rejected: ${reasons(worker.rejected)}`);
  if (worker.skipped_nonfinite) odd.push(`skipped: ${count(worker.skipped_nonfinite)} not finite`);
  return odd;
}

const workerColumns = [
  { title: "worker", left: true, text: (w) => w.name },
  { title: "samples/s", text: (w) => (w.live ? rate(w.samples_per_s) : w.lost ? "lost" : "left") },
  { title: "share", text: (w) => percent(w.share) },
  { title: "staleness", text: (w) => `med ${w.staleness_median}, max ${w.staleness_max}` },
  { title: "applied", text: (w) => count(w.applied) },
  { title: "rejected", text: (w) => count(Object.values(w.rejected).reduce((a, b) => a + b, 0)) },
  { title: "loss", text: (w) => reading(w.loss) },
];

const shardColumns = [
  { title: "shard", left: true, text: (s) => String(s.index) },
  { title: "version", text: (s) => count(s.version) },
  { title: "incarnation", text: (s) => count(s.incarnation) },
  { title: "updates/s", text: (s) => rate(s.updates_per_s) },
  { title: "MB/s in", text: (s) => rate(s.pushed_mb_per_s) },
];

const nodeColumns = [
  { title: "name", left: true, text: (n) => n.name },
  { title: "release", text: (n) => (n.release || n.age_s !== null ? count(n.release) : NONE) },
  { title: "age", text: (n) => duration(n.age_s) },
  { title: "serves at", left: true, text: (n) => n.url || NONE },
];

function lost(shard) {
  return shard.lost_updates ? [`lost at least ${count(shard.lost_updates)} updates`] : [];
}

export class Run {
  constructor() {
    const table = (id) => document.querySelector(`#${id} .table`);
    this.workers = new Table(table("workers"), workerColumns, (w) => w.name, oddities);
    this.shards = new Table(table("shards"), shardColumns, (s) => s.index, (s) => [...waits(s), ...lost(s)]);
    this.nodes = new Table(find("nodes"), nodeColumns, (n) => n.name, waits);
    this.bars = new Bars(find("staleness-bars"), "Applied pushes by staleness");
  }

  show(run) {
    this.workers.show(run.workers);
    this.shards.show(run.shards);
    this.nodes.show(run.nodes);
    say(find("workers-note"), workersNote(run));
    this.showStaleness(run.staleness);
  }

  showStaleness(histogram) {
    const total = histogram.reduce((sum, [, n]) => sum + n, 0);
    const ranges = ranged(histogram);
    const most = Math.max(1, ...ranges.map((range) => range.n));
    this.bars.show(
      ranges.map(({ name, n }) => ({ name, share: n / most, value: percent(n / total), more: count(n) })));
    const what = "updates that came between a gradient's parameters and itself";
    say(find("staleness-note"), total ? what : "no push was applied yet");
  }
}

function workersNote(run) {
  if (!run.workers.length) return "none has come yet";
  return run.shards.length > 1 ? "applied and rejected count verdicts, one per push and shard" : "";
}

/** Every staleness from 0 on, put together so that there are few enough. */
function ranged(histogram) {
  if (!histogram.length) return [];
  const largest = Math.max(...histogram.map(([stale]) => stale));
  const width = Math.ceil((largest + 1) / MOST_BARS);
  const ranges = Array.from({ length: Math.ceil((largest + 1) / width) }, (_, i) => ({
    name: width === 1 ? String(i) : `${i * width}–${(i + 1) * width - 1}`,
    n: 0,
  }));
  for (const [stale, n] of histogram) ranges[Math.floor(stale / width)].n += n;
  return ranges;
}
