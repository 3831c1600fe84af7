// Numbers as the terminal writes them: src/gradmq/view/words.py, which a test compares with this.

export const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** Rounded as the value is, not as it is written: 9.95 is a little less than that. */
function fixed(value, digits) {
  const [whole, fraction] = value.toFixed(digits).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return fraction === undefined ? grouped : `${grouped}.${fraction}`;
}

/** A whole number. */
export function count(value) {
  return Math.abs(value) < 10_000_000 ? fixed(value, 0) : `${fixed(value / 1e6, 1)} M`;
}

/** Something per second. */
export function rate(perSecond) {
  if (!isNumber(perSecond)) return NONE;
  if (perSecond >= 10_000_000) return count(Math.round(perSecond));
  if (perSecond >= 100) return fixed(perSecond, 0);
  return fixed(perSecond, perSecond >= 1 || perSecond === 0 ? 1 : 2);
}

/** A loss or a metric, with four figures. */
export function reading(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size && !(size >= 1e-3 && size < 1e5)) {
    return value.toExponential(1).replace(/e([+-])(\d)$/, "e$10$2");
  }
  return fixed(value, size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
}

/** A share of one. */
export function percent(share) {
  return share > 0 && share < 0.005 ? "<1 %" : `${fixed(100 * share, 0)} %`;
}

/** How long, to two units at most. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 9.95) return `${fixed(Math.max(seconds, 0), 1)} s`;
  const whole = Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 120) return `${whole} s`;
  if (whole < 2 * 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** A short time: below a second in milliseconds. */
export function latency(seconds) {
  if (!isNumber(seconds)) return NONE;
  const ms = seconds * 1000;
  return ms >= 1000 ? duration(seconds) : `${fixed(ms, ms < 10 && ms % 1 ? 1 : 0)} ms`;
}

/** Counts by reason, the most frequent first. */
export function reasons(counts) {
  return Object.entries(counts)
    .filter(([, n]) => n)
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .map(([reason, n]) => `${count(n)} ${reason}`)
    .join(", ");
}
