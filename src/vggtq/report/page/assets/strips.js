// One line for each run: its speed with the spread, and the errors of its outputs.
const STRIP_ROWS = 40;

// The most telling of the runs, in their order: which these are was decided when the report was made.
function telling(all) {
  if (all.length <= STRIP_ROWS) return all;
  const known = new Set(all), first = groupOf(state.group).telling.map((id) => rows[id]).filter((row) => known.has(row));
  const chosen = new Set([...new Set([...first, ...all])].slice(0, STRIP_ROWS));
  return all.filter((row) => chosen.has(row));
}

function strips(id, title, all, place, marksOf, entries, axis) {
  if (!all.length) return show(id, title, [el("p", {}, t("p.nothing"))]);
  const shown = telling(all), [W, step] = [chartWidth(), 24];
  const left = narrow.matches ? 150 : 200, right = W - 20;
  const bottom = 10 + step * shown.length;
  const x = place(shown, left, right);
  const lines = shown.flatMap((row, i) => {
    const y = 10 + step * (i + 0.5);
    return [svg("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }),
      svg("text", { class: "row", x: left - 8, y: y + 4, "text-anchor": "end" }, clip(row.title, narrow.matches ? 19 : 25)), ...marksOf(row, x, y)];
  });
  const one = axis === "p.axis_speed" ? [svg("line", { class: "one", x1: x(1), x2: x(1), y1: 10, y2: bottom })] : [];
  show(id, title, [legend(entries),
    chart(W, bottom + 46, title, ...axisX(x, 10, bottom, t(axis), left + right), ...one, ...lines)],
  shown.length < all.length ? t("p.cut", { n: shown.length, all: all.length }) : null);
}

function drawSpeed(shown) {
  const names = data.rows.columns.filter((name) => name.endsWith(".speedup")).map((name) => name.split(".")[0]);
  const timed = shown.filter((row) => names.some((name) => has(row, `${name}.speedup`)));
  const ends = (row) => names.flatMap((name) => ["", "_q25", "_q75"].map((end) => row[`${name}.speedup${end}`]));
  const marksOf = (row, x, y) => names.flatMap((name, i) => {
    const value = row[`${name}.speedup`], [low, high] = [row[`${name}.speedup_q25`], row[`${name}.speedup_q75`]];
    if (value === null || value === undefined) return [];
    const at = y + (i ? 5 : -3);
    const words = [row.title, `${name.toUpperCase()}: ${speedup(row, name)}`,
      `${milliseconds(row[`${name}.reference_ms_median`])} → ${milliseconds(row[`${name}.quantized_ms_median`])}`,
      t(row.simulated === false ? "measured" : "simulated")].join("\n");
    const bar = low === null ? [] : [svg("line", { class: "spread", x1: x(low), x2: x(high), y1: at, y2: at })];
    return [mark(row, words, `s${i}${row.simulated === false ? "" : " hollow"}`, ...bar, SHAPES[i](x(value), at))];
  });
  strips("chart-speed", t("p.chart_speed"), timed,
    (drawn, left, right) => logScale([1, ...drawn.flatMap(ends).filter((value) => value > 0)], left, right), marksOf,
    [...names.map((name, i) => [`s${i}`, SHAPES[i], t("p.against", { name: name.toUpperCase() })]),
      ["s0 hollow", SHAPES[0], `† ${t("simulated")}`]], "p.axis_speed");
}

function drawOutputs(shown) {
  const value = (row, output) => (row[`${output}.identical`] ? 0 : row[`${output}.relative_error`]);
  const known = shown.filter((row) => data.outputs.some((output) => value(row, output) !== null));
  const marksOf = (row, x, y) => data.outputs.flatMap((output, i) => {
    if (value(row, output) === null) return [];
    const grade = row[`${output}.grade`];
    const words = `${row.title}\n${output}: ${short(value(row, output))}${grade ? `, ${t(grade)}` : ""}`;
    return [mark(row, words, `s${i}`, SHAPES[i](x(value(row, output)), y))];
  });
  strips("chart-outputs", t("chart.error"), known,
    (drawn, left, right) => logScale(drawn.flatMap((row) => data.outputs.map((output) => value(row, output)))
      .filter((error) => error !== null), left, right, { zero: true }),
    marksOf, data.outputs.map((output, i) => [`s${i}`, SHAPES[i], output]), "axis.error");
}
