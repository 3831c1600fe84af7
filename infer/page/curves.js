// Loss and evaluations over releases, drawn by uPlot; each chart says in words what it shows.

import { el, find, say } from "./dom.js";
import { count, duration, reading } from "./words.js";

const HEIGHT = 150;
/** More would not be read; a job's first metrics are its most telling ones. */
const MOST_METRICS = 3;

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(title, color) {
    this.color = color;
    this.points = [];
    this.marks = [];
    this.range = [0, 1];
    this.caption = el("span", { class: "reading" });
    this.box = el("div", { class: "plot", "aria-hidden": "true" });
    const caption = el("figcaption", {}, el("span", { class: "name" }, title), " ", this.caption);
    this.element = el("figure", {}, caption, this.box);
    find("charts").append(this.element);
    new ResizeObserver(() => this.fit()).observe(this.box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
    this.build();
  }

  build() {
    this.plot?.destroy();
    const quiet = style("--quiet");
    const axis = {
      stroke: quiet,
      font: `11px ${style("--sans")}`,
      grid: { stroke: style("--rule"), width: 1 },
      ticks: { show: false },
    };
    const options = {
      width: Math.max(this.box.clientWidth, 100),
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: { x: { time: false, range: () => this.range } },
      axes: [
        { ...axis, size: 24, gap: 4, values: (_, splits) => splits.map((v) => (v % 1 ? "" : count(v))) },
        { ...axis, size: 46, gap: 6, space: 26, values: (_, splits) => splits.map((v) => short(v)) },
      ],
      series: [
        {},
        {
          stroke: style(this.color),
          width: 1.75,
          points: { show: (plot) => plot.data[0].length < 40, size: 5, fill: style(this.color) },
          spanGaps: false,
        },
      ],
      hooks: { draw: [(plot) => this.drawMarks(plot)], setCursor: [() => this.showCaption()] },
    };
    this.plot = new uPlot(options, this.data(), this.box);
  }

  data() {
    return [this.points.map((point) => point.x), this.points.map((point) => point.y)];
  }

  fit() {
    const width = this.box.clientWidth;
    if (width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** `points`: {x: release, y: value or null, text: when}; `marks`: {release, text}. */
  show(points, range, marks) {
    this.points = points;
    this.range = range;
    this.marks = marks;
    this.plot.setData(this.data());
    this.showCaption();
  }

  showCaption() {
    const { points } = this;
    const at = this.plot?.cursor.idx;
    const chosen = at !== null && points[at];
    const values = points.filter((point) => point.y !== null);
    if (chosen) {
      say(this.caption, `${reading(chosen.y)} at release ${count(chosen.x)}${chosen.text}`);
    } else if (values.length) {
      say(this.caption, `${reading(values.at(-1).y)}, first ${reading(values[0].y)}`);
    } else {
      say(this.caption, "nothing yet");
    }
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = style("--quiet");
    ctx.font = `${11 * ratio}px ${style("--sans")}`;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    for (const { release, text } of this.marks) {
      const x = Math.round(plot.valToPos(release, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const isLeft = x < bbox.left + bbox.width / 2;
      ctx.textAlign = isLeft ? "left" : "right";
      ctx.fillText(text, x + (isLeft ? 4 : -4) * ratio, bbox.top + 10 * ratio);
    }
    ctx.restore();
  }
}

/** A number at an axis: as few figures as it has. */
function short(value) {
  const size = Math.abs(value);
  return size >= 1e5 || (size && size < 1e-3) ? value.toExponential(0) : String(+value.toFixed(4));
}

export class Curves {
  constructor() {
    this.charts = new Map();
    this.points = [];
    this.evaluations = new Map();
  }

  history(history) {
    this.points = history?.points ?? [];
    this.evaluations = new Map((history?.evaluations ?? []).map((e) => [e.release, e]));
  }

  report({ node, run }) {
    const last = this.points.at(-1);
    if (run.point && run.point[0] > (last ? last[0] : -1)) this.points.push(run.point);
    for (const evaluation of run.evaluations) this.evaluations.set(evaluation.release, evaluation);
    const marks = node.held
      .filter((held) => held.labels.length || (node.mode === "pinned" && held.release === node.release))
      .map((held) => ({ release: held.release, text: held.labels.join(", ") || "pinned" }));
    // One range for all: what stands above each other belongs to the same release.
    const begin = Math.min(run.release, this.points[0]?.[0] ?? 0, ...this.evaluations.keys());
    const range = [begin, Math.max(run.release, begin + 1)];
    this.chart("training loss", "--first").show(this.losses(), range, marks);
    for (const name of this.metrics()) {
      this.chart(name, "--second").show(this.evaluated(name), range, marks);
    }
  }

  chart(name, color) {
    if (!this.charts.has(name)) this.charts.set(name, new Chart(name, color));
    return this.charts.get(name);
  }

  losses() {
    return this.points.map(([x, seconds, updates, y]) => ({
      x,
      y,
      text: `, ${count(updates)} updates, after ${duration(seconds)}`,
    }));
  }

  /** Names of evaluations, not confused with the training loss. */
  metrics() {
    const names = new Set();
    for (const evaluation of this.evaluations.values()) {
      for (const name of Object.keys(evaluation)) if (name !== "release") names.add(`evaluated ${name}`);
    }
    return [...names].slice(0, MOST_METRICS);
  }

  evaluated(title) {
    const name = title.slice("evaluated ".length);
    return [...this.evaluations.values()]
      .sort((a, b) => a.release - b.release)
      .map((evaluation) => ({ x: evaluation.release, y: evaluation[name] ?? null, text: "" }));
  }
}
