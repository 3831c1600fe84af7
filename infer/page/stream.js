// Follows the node's events for as long as the page is open, and knows how long it has been silent.

import { ask, errorText } from "./api.js";
import { events } from "./sse.js";

/** The node tells something every second; after this long without a word it is asked anew. */
const SILENT_MS = 6000;
const AGAIN_MS = 1000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Stream {
  /** `on(name, data)` is called for each event, `onTurn()` when a connection begins or ends. */
  constructor(on, onTurn) {
    this.on = on;
    this.onTurn = onTurn;
    this.heardAt = performance.now();
    this.open = false;
    this.ended = false;
    this.refusal = "";
    setInterval(() => this.watch(), 1000);
    this.follow();
  }

  silentS() {
    return (performance.now() - this.heardAt) / 1000;
  }

  async follow() {
    for (;;) {
      this.abort = new AbortController();
      this.askedAt = performance.now();
      try {
        const answer = await ask("/gradmq/v1/events", { signal: this.abort.signal });
        this.refusal = answer.ok ? "" : await errorText(answer);
        if (answer.ok) await this.read(answer.body);
      } catch (error) {
        // Gone, or given up by watch(): what is shown says since when.
        if (!(error instanceof TypeError || error.name === "AbortError")) console.error(error);
      }
      this.open = false;
      this.onTurn();
      await pause(AGAIN_MS);
    }
  }

  async read(body) {
    for await (const { name, data } of events(body)) {
      this.heardAt = performance.now();
      this.ended = name === "end";
      this.open = !this.ended;
      this.on(name, JSON.parse(data));
    }
  }

  watch() {
    const since = Math.max(this.heardAt, this.askedAt);
    if (this.open && performance.now() - since > SILENT_MS) this.abort.abort();
    this.onTurn();
  }
}
