// Error against bytes with the Pareto front, and error against group size.
function drawable() {
  return rows.filter((row) => row.group === state.group && row.status === "ok" && matches(row));
}
const SINGLE = 400; // with more runs their density is drawn, and marks for the front alone: thousands would cover each other
const CELL = 8;
function density(places) {
  const counts = new Map();
  for (const [px, py] of places) {
    const key = `${Math.floor(px / CELL)},${Math.floor(py / CELL)}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  const most = Math.log1p(Math.max(...counts.values()));
  return [...counts].map(([key, count]) => {
    const [column, line] = key.split(",").map(Number);
    return svg("rect", { class: "density", x: column * CELL, y: line * CELL, width: CELL, height: CELL,
      "fill-opacity": (0.15 + 0.75 * Math.log1p(count) / most).toFixed(2) });
  });
}
const gradeColour = (row) => (row.non_finite ? "c-poor" : row.grade ? `c-${row.grade}` : "c-quiet");

function drawPareto(shown) {
  const title = t("p.chart_pareto");
  const points = shown.filter((row) => has(row, "stored_bytes") && has(row, "mean_relative_error"));
  if (!points.length) return show("chart-pareto", title, [el("p", {}, t("p.nothing"))]);
  const [W, H, left, top, bottom] = [chartWidth(), 400, 74, 14, 350], right = W - 20;
  const x = logScale(points.map((row) => row.stored_bytes / 2 ** 20), left, right);
  const y = logScale(points.map((row) => row.mean_relative_error), bottom, top, { zero: true });
  const at = (row) => [x(row.stored_bytes / 2 ** 20), y(row.mean_relative_error)];
  const known = new Set(points);
  const front = groupOf(state.group).front.map((id) => rows[id]).filter((row) => known.has(row))
    .sort((a, b) => a.stored_bytes - b.stored_bytes);
  // whoever needs a size between two points has to take the smaller one and its error: steps, not slopes
  const path = front.map(at).map(([px, py], i) => (i ? `H${px}V${py}` : `M${px} ${py}`)).join("");
  const onFront = new Set(front), many = points.length > SINGLE;
  const marks = points.filter((row) => !many || onFront.has(row)).map((row) => {
    const [px, py] = at(row), on = onFront.has(row);
    return mark(row, summary(row), `${gradeColour(row)}${on ? "" : " open"}`, SHAPES[on ? 0 : 3](px, py));
  });
  const used = GRADES.filter((grade) => points.some((row) => row.grade === grade)).reverse();
  const curves = familiesOf(points).map(([name, curve], i) => ({ name, cls: `line s${i + 1}`, curve }));
  const lines = curves.map(({ cls, curve }) =>
    svg("path", { class: cls, d: curve.map(at).map(([px, py], k) => `${k ? "L" : "M"}${px} ${py}`).join("") }));
  show("chart-pareto", title, [
    legend([...curves.map(({ name, cls }) => [cls, (cx) => svg("path", { d: `M0 7H${2 * cx}`, "stroke-width": 2 }), name]),
      ["s0 line", (cx) => svg("path", { d: `M0 9H${cx}V3H14`, "stroke-width": 2 }), t("front")],
      ["c-quiet", SHAPES[many ? 1 : 3], many ? t("others", { n: points.length - front.length }) : t("dominated")],
      ...used.map((grade) => [`c-${grade}`, SHAPES[0], t(grade)])]),
    chart(W, H, title, ...axisX(x, top, bottom, t("p.axis_bytes"), (left + right)),
      ...axisY(y, left, right, t("axis.mean_error")),
      ...(many ? density(points.filter((row) => !onFront.has(row)).map(at)) : []), ...lines, svg("path", { class: "front", d: path }),
      ...labels(front, points.filter((row) => !many || onFront.has(row)).map(at), at, [left, right, top]), ...marks)]);
}

// Runs that differ in bits, or in the budget for them, are one curve where there are three or more.
function familiesOf(points) {
  const found = new Map();
  for (const row of points) if (row.family) found.set(row.family, [...(found.get(row.family) ?? []), row]);
  return [...found].filter(([, curve]) => new Set(curve.map((row) => row.stored_bytes)).size >= 3)
    .sort(([a, one], [b, two]) => two.length - one.length || a.localeCompare(b)).slice(0, 4)
    .map(([name, curve]) => [name, curve.sort((a, b) => a.stored_bytes - b.stored_bytes)]);
}

// Names beside the points of the front, below them first, where no other point can be; none on a mark or on another name.
function labels(front, marks, at, [left, right, top]) {
  const taken = marks.map(([px, py]) => [px - 5, py - 5, px + 5, py + 5]);
  return front.map((row) => {
    const [px, py] = at(row), words = clip(row.title, 28), width = 6.6 * words.length;
    for (const [end, y] of [[true, py + 14], [false, py - 7], [false, py + 14], [true, py - 7]]) {
      const x = end ? px - 8 : px + 8, box = [end ? x - width : x, y - 9, end ? x : x + width, y + 2];
      const free = taken.every((other) => box[0] > other[2] || other[0] > box[2] || box[1] > other[3] || other[1] > box[3]);
      if (!free || box[0] < left || box[2] > right || box[1] < top) continue;
      taken.push(box);
      return svg("text", { x, y, "text-anchor": end ? "end" : "start" }, words);
    }
    return null;
  });
}

function drawGroups(shown) {
  const title = t("p.chart_groups");
  const curves = new Map();
  for (const row of shown) {
    if (!has(row, "group_size") || !has(row, "mean_relative_error")) continue;
    const name = row.title.replace(/\s*\(.*\)$/, "").replace(new RegExp(`\\s*(group\\s*)?\\b${row.group_size}\\b`), "");
    const key = JSON.stringify([row.scheme, row.format, row.bits, row.symmetric, row.activation_bits]);
    if (!curves.has(key)) curves.set(key, { name, rows: [] });
    curves.get(key).rows.push(row);
  }
  const lines = [...curves.values()].filter((curve) => new Set(curve.rows.map((row) => row.group_size)).size > 1);
  const many = lines.some((curve) => curve.rows.length > STRIP_ROWS);
  if (many) lines.forEach((curve) => { curve.rows = medians(curve.rows); });
  if (!lines.length) return show("chart-groups", title, [el("p", {}, t("p.no_groups"))]);
  const [W, H, left, top, bottom] = [chartWidth(), 400, 74, 14, 350], right = W - 20;
  const all = lines.flatMap((curve) => curve.rows);
  const x = logScale(all.map((row) => row.group_size), left, right);
  x.ticks = [...new Set(all.map((row) => row.group_size))].sort((a, b) => a - b).map((size) => [size, String(size)]);
  const y = logScale(all.map((row) => row.mean_relative_error), bottom, top, { zero: true });
  const drawn = lines.flatMap((curve, i) => {
    curve.rows.sort((a, b) => a.group_size - b.group_size);
    const at = curve.rows.map((row) => [x(row.group_size), y(row.mean_relative_error)]);
    const style = `s${i % 5}`;
    return [svg("path", { class: `line ${style}`, d: at.map(([px, py], k) => `${k ? "L" : "M"}${px} ${py}`).join("") }),
      ...curve.rows.map((row, k) => mark(row, summary(row), style, SHAPES[i % 5](...at[k])))];
  });
  show("chart-groups", title, [legend(lines.map((curve, i) => [`s${i % 5}`, SHAPES[i % 5], curve.name])),
    chart(W, H, title, ...axisX(x, top, bottom, t("p.axis_group"), left + right),
      ...axisY(y, left, right, t("axis.mean_error")), ...drawn)], many ? t("p.medians") : null);
}

// Of each group size the run of median error: hundreds of seeds would make one black bar.
function medians(all) {
  const sorted = [...all].sort((a, b) => a.mean_relative_error - b.mean_relative_error);
  return [...new Set(all.map((row) => row.group_size))].map((size) => {
    const own = sorted.filter((row) => row.group_size === size);
    return own[own.length >> 1];
  });
}

const groupOf = (number) => data.groups.find((group) => group.number === number);

function drawCharts() {
  const shown = drawable();
  drawPareto(shown);
  drawSpeed(shown);
  drawOutputs(shown);
  drawGroups(shown);
  drawHeat(shown);
  drawSensitivity(shown);
}
views.push(drawCharts);
narrow.addEventListener("change", drawCharts);
