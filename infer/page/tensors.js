// Any other model: its inputs and outputs, and a request that one may edit, with its answer.

import { askJson } from "./api.js";
import { el, say } from "./dom.js";
import { count } from "./words.js";

/** An example with more values would not be read: it is left to be filled in. */
const MOST_VALUES = 4096;

export class TensorPanel {
  constructor(parent, model, metadata) {
    this.path = `/v2/models/${encodeURIComponent(model)}/infer`;
    this.request = el("textarea", { id: "request", rows: 9, spellcheck: "false" });
    this.request.value = written({ inputs: metadata.inputs.map(example) });
    this.answer = el("pre", { class: "text", tabindex: "0", "aria-label": "The answer" });
    this.said = el("p", { role: "status", class: "by quiet" });
    const form = el("form", {}, el("label", { for: "request" }, `POST ${this.path}`), this.request,
      el("div", { class: "settings" }, el("button", {}, "Ask")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    const tensors = el("p", { class: "quiet" }, `in: ${listed(metadata.inputs)}; out: ${listed(metadata.outputs)}`);
    parent.replaceChildren(tensors, form, this.answer, this.said);
  }

  report() {}

  async ask() {
    try {
      const options = { method: "POST", headers: { "content-type": "application/json" }, body: this.request.value };
      const answer = await askJson(this.path, options);
      say(this.answer, written({ outputs: answer.outputs }));
      say(this.said, `release ${count(Number(answer.model_version))}`);
    } catch (error) {
      say(this.answer, "");
      say(this.said, error instanceof TypeError ? "no answer from the node" : error.message);
    }
  }
}

const listed = (tensors) => tensors.map((t) => `${t.name} ${t.datatype} [${t.shape.join(", ")}]`).join(", ");

function example({ name, datatype, shape }) {
  const sizes = shape.map((size) => (size < 0 ? 1 : size));
  const length = sizes.reduce((a, b) => a * b, 1);
  const value = datatype === "BYTES" ? "" : datatype === "BOOL" ? false : 0;
  return { name, datatype, shape: sizes, data: length > MOST_VALUES ? [] : Array(length).fill(value) };
}

/** JSON with one tensor a line. */
function written(body) {
  const [[key, tensors]] = Object.entries(body);
  const lines = tensors.map((tensor) => `  ${JSON.stringify(tensor)}`);
  return `{"${key}": [\n${lines.join(",\n")}\n]}`;
}
