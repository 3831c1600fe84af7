// A prompt for a text model: what answers now, and an older release beside it, as they write.

import { ask, askJson, errorText } from "./api.js";
import { el, say } from "./dom.js";
import { events } from "./sse.js";
import { count, duration } from "./words.js";

const TRIES = 3;

const field = (title, attributes) => el("label", {}, title, " ", el("input", attributes));

/** One answer: where its text goes, and which release wrote it. */
class Answer {
  constructor(title) {
    this.prompt = el("span", { class: "given" });
    this.text = el("span");
    this.by = el("p", { class: "by quiet" });
    const written = el("div", { class: "text" }, this.prompt, this.text);
    this.element = el("div", { class: "answer" }, title, written, this.by);
  }

  /** `pin()`: the release to be asked, null for whatever answers, undefined for none. */
  async write(body, pin, signal) {
    this.prompt.textContent = body.prompt;
    this.text.textContent = "";
    say(this.by, "asking");
    const begun = performance.now();
    try {
      const answer = await this.asked(body, pin, signal);
      if (answer === null) {
        say(this.by, "no other release is held");
        return;
      }
      const by = `release ${count(Number(answer.headers.get("x-gradmq-release")))}`;
      const age = duration(Number(answer.headers.get("x-gradmq-age-ms")) / 1000);
      say(this.by, `${by} writes`);
      await this.read(answer);
      say(this.by, `${by}, ${age} old, in ${duration((performance.now() - begun) / 1000)}`);
    } catch (error) {
      if (error.name === "AbortError") say(this.by, "stopped");
      else say(this.by, error instanceof TypeError ? "no answer from the node" : error.message);
    }
  }

  async asked(body, pin, signal) {
    for (let tries = 1; ; tries++) {
      const number = await pin();
      if (number === undefined) return null;
      const headers = { "content-type": "application/json" };
      if (number !== null) headers["x-gradmq-pin"] = String(number);
      const answer = await ask("/v1/completions", { method: "POST", headers, signal, body: JSON.stringify(body) });
      if (answer.ok) return answer;
      // Dropped between the look and the question: the next look knows.
      if (answer.status !== 409 || tries === TRIES) throw new Error(await errorText(answer));
    }
  }

  async read(answer) {
    let whole = false;
    for await (const { data } of events(answer.body)) {
      whole = data === "[DONE]";
      if (whole) continue;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      this.text.append(piece.choices[0].text);
    }
    if (!whole) throw new Error("the answer broke off");
  }
}

export class PromptPanel {
  constructor(parent, samplePrompt) {
    this.older = el("select", { "aria-label": "Which older release answers beside it" });
    this.answers = [
      new Answer(el("h3", {}, "what answers now")),
      new Answer(el("h3", {}, "beside it ", this.older)),
    ];
    this.prompt = el("textarea", { id: "prompt", rows: 3, spellcheck: "false" });
    this.prompt.value = samplePrompt;
    this.tokens = field("tokens", { type: "number", min: 1, max: 1024, value: 80, required: "" });
    this.temperature = field("temperature", { type: "number", min: 0, max: 2, step: 0.1, value: 0.7, required: "" });
    this.seed = field("seed", { type: "number", min: 0, step: 1, value: 1, required: "" });
    this.button = el("button", {}, "Complete");
    this.done = el("p", { role: "status", class: "unseen" });
    const settings = el("div", { class: "settings" }, this.tokens, this.temperature, this.seed, this.button);
    this.form = el("form", {}, el("label", { for: "prompt" }, "Prompt"), this.prompt, settings);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.abort) this.abort.abort();
      else this.complete();
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    const answers = el("div", { class: "answers" }, ...this.answers.map((answer) => answer.element));
    parent.replaceChildren(this.form, answers, this.done);
  }

  report(node) {
    const numbers = node.held.map((held) => held.release).filter((number) => number !== node.release);
    const named = node.held
      .filter((held) => numbers.includes(held.release))
      .map((held) => [held.release, [count(held.release), ...held.labels].join(", ")]);
    this.oldest = numbers[0] ?? null;
    const options = [["", this.oldest === null ? "no other is held" : "the oldest held"], ...named];
    const wanted = JSON.stringify(options);
    if (wanted === this.shown || document.activeElement === this.older) return;
    this.shown = wanted;
    const chosen = this.older.value;
    this.older.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    this.older.value = options.some(([value]) => String(value) === chosen) ? chosen : "";
  }

  /** The number of the older release that is chosen; undefined: there is none. */
  async pin() {
    if (this.older.value) return Number(this.older.value);
    const { held, release } = await askJson("/gradmq/v1/serving");
    return held.find((each) => each.release !== release)?.release;
  }

  async complete() {
    const number = (label) => Number(label.querySelector("input").value);
    const body = {
      prompt: this.prompt.value,
      max_tokens: number(this.tokens),
      temperature: number(this.temperature),
      seed: number(this.seed),
      stream: true,
    };
    this.abort = new AbortController();
    say(this.button, "Stop");
    const [now, beside] = this.answers;
    // The older one first: it may be dropped while it waits for the model.
    const older = beside.write(body, () => this.pin(), this.abort.signal);
    await Promise.all([older, now.write(body, () => null, this.abort.signal)]);
    this.abort = null;
    say(this.button, "Complete");
    say(this.done, this.answers.map((answer) => answer.by.textContent).filter(Boolean).join("; "));
  }
}
