// Horizontal bars that are a table too: name, bar, value, and perhaps one more.

import { el, say } from "./dom.js";

export class Bars {
  constructor(parent, label) {
    this.rows = [];
    this.element = el("table", { class: "bars", "aria-label": label });
    this.body = el("tbody");
    this.element.append(this.body);
    parent.append(this.element);
  }

  /** `items`: {name, share: 0 to 1 of the longest bar, value: its text, more?, best?}. */
  show(items) {
    while (this.rows.length > items.length) this.rows.pop().element.remove();
    items.forEach((item, i) => {
      const row = (this.rows[i] ??= this.made());
      say(row.name, item.name);
      say(row.value, item.value);
      say(row.more, item.more ?? "");
      row.bar.hidden = item.share === 0;
      row.bar.style.width = `${100 * item.share}%`;
      row.element.classList.toggle("best", Boolean(item.best));
    });
  }

  made() {
    const cell = () => el("td", { class: "value" });
    const row = { name: el("th", { scope: "row" }), bar: el("span"), value: cell(), more: cell() };
    const bar = el("td", { class: "bar", "aria-hidden": "true" }, row.bar);
    row.element = el("tr", {}, row.name, bar, row.value, row.more);
    this.body.append(row.element);
    return row;
  }
}
