// Elements and text. Foreign text reaches the page only as text nodes, never as markup.

export const find = (id) => document.getElementById(id);

/** An element with attributes (`class`, `for`, …; null ones are left out) and children. */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Set the text of an element, only if it is another one: selections and live regions stay calm. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Waits that nobody will end by waiting. */
const TROUBLE = ["away", "silent", "quarantined"];

/**
 * A table whose rows keep their elements as long as their key is there.
 * `columns`: {title, text: item => string, left?, class?}; `notes`: item => lines under its row.
 */
export class Table {
  constructor(parent, columns, key, notes = () => []) {
    this.columns = columns;
    this.key = key;
    this.notes = notes;
    this.rows = new Map();
    const titles = columns.map((c) => el("th", { scope: "col", class: c.left ? "left" : null }, c.title));
    this.body = el("tbody");
    parent.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...titles)), this.body));
  }

  show(items) {
    const rows = new Map();
    const order = [];
    for (const item of items) {
      const key = this.key(item);
      const row = this.rows.get(key) ?? this.made();
      rows.set(key, row);
      this.columns.forEach((column, i) => say(row.cells[i], column.text(item)));
      const notes = this.notes(item);
      say(row.note.firstChild, notes.join("; "));
      row.note.classList.toggle("trouble", TROUBLE.includes(item.wait));
      row.element.classList.toggle("gone", item.live === false);
      order.push(row.element, ...(notes.length ? [row.note] : []));
    }
    this.rows = rows;
    const same = order.length === this.body.children.length && order.every((e, i) => e === this.body.children[i]);
    if (!same) this.body.replaceChildren(...order);
  }

  made() {
    const cells = this.columns.map((c, i) =>
      el(i ? "td" : "th", { scope: i ? null : "row", class: c.left ? "left" : null, "data-title": c.title }));
    const element = el("tr", {}, ...cells);
    const note = el("tr", { class: "note" }, el("td", { colspan: this.columns.length, class: "left" }));
    return { element, cells, note };
  }
}
