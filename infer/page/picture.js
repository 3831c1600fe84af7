// A picture, drawn or given, and what each release makes of it.

import { askJson } from "./api.js";
import { Bars } from "./bars.js";
import { el, say } from "./dom.js";
import { count, percent, reading } from "./words.js";

const SIDE = 280;
const PEN = 20;
/** Beyond this many values an output is no list of classes that one reads. */
const MOST_CLASSES = 100;

export class PicturePanel {
  constructor(parent, model, accepts, classNames) {
    this.model = model;
    this.accepts = accepts;
    this.classNames = classNames;
    const label = "The picture that is asked about";
    this.canvas = el("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": label });
    this.file = el("input", { type: "file", id: "picture-file", accept: "image/*", class: "unseen" });
    this.clear = el("button", { type: "button" }, "Clear");
    const choose = el("label", { for: "picture-file", class: "button" }, "Choose a picture");
    const tools = el("div", { class: "settings" }, this.file, choose, this.clear);
    const how = "Draw, or drop or choose a picture. It is asked about again at every new release.";
    const hint = el("p", { class: "quiet" }, how);
    this.said = el("p", { role: "status" }, "no picture yet");
    const answer = el("div", { class: "classes" });
    const left = el("div", { class: "drawing" }, this.canvas, tools, hint);
    parent.replaceChildren(el("div", { class: "picture" }, left, el("div", { class: "seen" }, this.said, answer)));
    this.bars = new Bars(answer, "What the model sees, by class");
    this.context = this.canvas.getContext("2d");
    this.wipe();
    this.listen(parent);
  }

  listen(parent) {
    this.clear.addEventListener("click", () => this.wipe());
    this.file.addEventListener("change", () => this.take(this.file.files[0]));
    parent.addEventListener("dragover", (event) => event.preventDefault());
    parent.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer.files[0]);
    });
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.at = this.place(event);
      this.line(this.at);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.at) this.line(this.place(event));
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, () => (this.at = null));
    }
  }

  wipe() {
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, SIDE, SIDE);
    this.content = null;
    this.file.value = "";
    this.bars.show([]);
    say(this.said, "no picture yet");
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  line(to) {
    Object.assign(this.context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#111" });
    this.context.beginPath();
    this.context.moveTo(...this.at);
    this.context.lineTo(...to);
    this.context.stroke();
    this.at = to;
    this.content = "canvas";
    this.ask();
  }

  async take(file) {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file);
      this.wipe();
      const scale = SIDE / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      this.context.drawImage(picture, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
    } catch {
      say(this.said, `${file.name} is no picture that this browser can read`);
      return;
    }
    // As it is where the node takes its kind, else as what is seen here.
    this.content = this.accepts.includes(file.type) ? file : "canvas";
    this.ask();
  }

  report(node) {
    if (node.release !== this.release && this.content) this.ask();
  }

  /** One question at a time; what changed meanwhile is asked when it is answered. */
  async ask() {
    if (this.asking) {
      this.again = true;
      return;
    }
    this.asking = true;
    try {
      const body = this.content === "canvas" ? await this.drawn() : this.content;
      const options = { method: "POST", headers: { "content-type": body.type }, body };
      const answer = await askJson(`/v2/models/${encodeURIComponent(this.model)}/infer`, options);
      if (this.content) this.show(answer);
    } catch (error) {
      say(this.said, error instanceof TypeError ? "no answer from the node" : error.message);
    }
    this.asking = false;
    if (this.again && this.content) {
      this.again = false;
      this.ask();
    }
  }

  drawn() {
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }

  show(answer) {
    this.release = Number(answer.model_version);
    const values = classesOf(answer.outputs);
    if (!values) {
      const all = answer.outputs.map((o) => `${o.name}: ${o.data.slice(0, 8).join(", ")}`);
      say(this.said, `release ${count(this.release)} answers ${all.join("; ")}`);
      return;
    }
    const best = values.indexOf(Math.max(...values));
    const shares = isShares(values);
    const name = (i) => this.classNames?.[i] ?? `class ${i}`;
    const largest = Math.max(...values.map(Math.abs)) || 1;
    this.bars.show(
      values.map((value, i) => ({
        name: name(i),
        share: shares ? value : Math.max(value, 0) / largest,
        value: shares ? percent(value) : reading(value),
        best: i === best,
      })));
    say(this.said, `release ${count(this.release)} sees ${name(best)}`);
  }
}

/** Of the outputs for one picture, the one that has a number for each class. */
function classesOf(outputs) {
  const isList = ({ length }) => length > 1 && length <= MOST_CLASSES;
  return outputs.find((o) => /^FP|^BF/.test(o.datatype) && isList(o.data))?.data ?? null;
}

function isShares(values) {
  const sum = values.reduce((a, b) => a + b, 0);
  return values.every((value) => value >= 0) && Math.abs(sum - 1) < 0.01;
}
