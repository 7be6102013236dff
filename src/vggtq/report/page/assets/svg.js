// Axes, scales and marks: what all charts share.
const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const power = (exponent) => (exponent >= 0 && exponent < 4 ? String(10 ** exponent)
  : `10${[...String(exponent)].map((digit) => SUPERSCRIPT[digit]).join("")}`);

// Logarithmic from `low` to `high`. Zero has a place of its own at the low end, where there is any.
function logScale(values, from, to, { zero = false } = {}) {
  const positive = values.filter((value) => value > 0);
  const least = Math.min(...positive), most = Math.max(...positive);
  const [low, high] = positive.length ? [Math.log10(least), Math.log10(most)] : [-4, 0];
  const pad = Math.max(0.06 * (high - low), 0.04);
  const start = low - pad, span = high + pad - start;
  const room = zero && values.some((value) => value === 0) ? 0.1 : 0;
  const place = (share) => from + (to - from) * (room + (1 - room) * share);
  const scale = (value) => (value > 0 ? place((Math.log10(value) - start) / span) : from + (to - from) * room * 0.35);
  scale.ticks = logTicks(start, start + span);
  if (room) scale.ticks.unshift([0, "0"]);
  return scale;
}

function logTicks(start, end) {
  const whole = [];
  for (let e = Math.ceil(start); e <= end; e++) whole.push(e);
  if (whole.length >= 3) {
    const step = Math.ceil(whole.length / 6);
    return whole.filter((_, i) => i % step === 0).map((e) => [10 ** e, power(e)]);
  }
  const found = [];
  const fine = end - start < 0.7 ? [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8] : [1, 2, 3, 5];
  for (let e = Math.floor(start); e <= end; e++) {
    for (const m of fine) {
      const at = Math.log10(m) + e;
      if (at >= start && at <= end) found.push([m * 10 ** e, short(m * 10 ** e)]);
    }
  }
  return found.length > 9 ? found.filter((_, i) => i % 2 === 0) : found;
}

function axisX(scale, top, bottom, title, width) {
  return [
    ...scale.ticks.flatMap(([value, words]) => [
      svg("line", { class: "grid", x1: scale(value), x2: scale(value), y1: top, y2: bottom }),
      svg("text", { x: scale(value), y: bottom + 16, "text-anchor": "middle" }, words)]),
    svg("text", { x: width / 2, y: bottom + 36, "text-anchor": "middle" }, title)];
}
function axisY(scale, left, right, title) {
  const middle = (scale(scale.ticks[0][0]) + scale(scale.ticks.at(-1)[0])) / 2;
  return [
    ...scale.ticks.flatMap(([value, words]) => [
      svg("line", { class: "grid", y1: scale(value), y2: scale(value), x1: left, x2: right }),
      svg("text", { x: left - 6, y: scale(value) + 4, "text-anchor": "end" }, words)]),
    svg("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, title)];
}

const SHAPES = [
  (x, y) => svg("circle", { cx: x, cy: y, r: 5 }),
  (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }),
  (x, y) => svg("path", { d: `M${x} ${y - 6}l6 10h-12z` }),
  (x, y) => svg("path", { d: `M${x} ${y - 6.5}l6 6.5l-6 6.5l-6 -6.5z` }),
  (x, y) => svg("path", { d: `M${x - 5} ${y - 5}l10 10m0 -10l-10 10`, "stroke-width": 2.5 }),
];

// A mark is read by pointing at it or by the arrow keys, and leads to its run.
function mark(row, words, cls, ...shapes) {
  const group = svg("g", { class: `mark ${cls}`, role: "img", tabindex: -1, "aria-label": words.replaceAll("\n", ", ") }, ...shapes);
  group.addEventListener("pointermove", (event) => showTip(words, event.clientX, event.clientY));
  group.addEventListener("pointerleave", hideTip);
  group.addEventListener("focus", () => {
    const box = group.getBoundingClientRect();
    showTip(words, box.right, box.top);
  });
  group.addEventListener("blur", hideTip);
  group.addEventListener("click", () => showOrigin(row));
  return group;
}

// One stop of the tab key for each chart; within it the arrow keys move from mark to mark.
function keyboard(chart) {
  const marks = [...chart.querySelectorAll(".mark")];
  if (marks.length) marks[0].setAttribute("tabindex", 0);
  chart.addEventListener("keydown", (event) => {
    const at = marks.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (at < 0 || (!step && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    if (!step) return void marks[at].dispatchEvent(new MouseEvent("click"));
    const next = marks[(at + step + marks.length) % marks.length];
    marks[at].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  return chart;
}

function chart(width, height, label, ...children) {
  return keyboard(svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label }, ...children));
}
// On a telephone charts are narrower, so that their words stay as large as those around them.
const narrow = matchMedia("(max-width: 600px)");
const chartWidth = () => (narrow.matches ? 400 : 640);
const legend = (entries) => el("div", { class: "legend" }, ...entries.map(([cls, shape, words]) =>
  el("span", {}, svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("g", { class: cls }, shape(7, 7))), words)));
// The end of a name often is what tells it from others.
const clip = (words, length) => (words.length > length ? `${words.slice(0, length - 11)}…${words.slice(-10)}` : words);

function show(id, title, content, note = null) {
  $(id).replaceChildren(el("figcaption", {}, title), ...content, ...(note ? [el("p", { class: "small" }, note)] : []));
}
