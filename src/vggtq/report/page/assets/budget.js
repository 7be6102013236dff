// The recommendations within limits of one's own. Who qualifies, and in which order, was decided when the report was made.
const LIMITS = [
  { key: "bytes", label: "p.max_bytes", value: (row) => row.stored_bytes, words: (value) => `${mib(value)} MiB` },
  { key: "error", label: "p.max_error", value: (row) => row.mean_relative_error, words: (value) => short(value) },
  // only what ran on real kernels has a time that speaks of the scheme
  { key: "latency", label: "p.max_latency", value: (row) => (row.simulated === false ? row["fp32.comparable_ms_median"] : null),
    words: milliseconds },
];
const budget = { need: data.needs[0], limits: {} };

const steps = (limit) => [...new Set(groupRows().filter((row) => row.status === "ok").map(limit.value)
  .filter((value) => value !== null && value !== undefined))].sort((a, b) => a - b);

const fits = (row) => LIMITS.every((limit) => {
  const most = budget.limits[limit.key];
  const own = limit.value(row);
  return most === undefined || (own !== null && own !== undefined && own <= most);
});

// [basis, row] of the first that fits; the lists are in the order of the recommendations.
function pick() {
  const rankings = groupOf(state.group).rankings[budget.need];
  for (const [basis, ids] of Object.entries(rankings)) {
    const found = ids.find((id) => fits(rows[id]));
    if (found !== undefined) return [basis, rows[found]];
  }
  return [null, null];
}

function slider(limit) {
  const values = steps(limit);
  const words = () => (budget.limits[limit.key] === undefined ? t("p.no_limit") : limit.words(budget.limits[limit.key]));
  const output = el("output", {}, words());
  const at = budget.limits[limit.key] === undefined ? values.length : values.indexOf(budget.limits[limit.key]);
  const input = el("input", { type: "range", id: `limit-${limit.key}`, min: 0, max: values.length, step: 1, value: at,
    "aria-valuetext": words(), disabled: !values.length });
  input.addEventListener("input", () => {
    const value = values[Number(input.value)]; // one step beyond the largest value there is no limit
    if (value === undefined) delete budget.limits[limit.key];
    else budget.limits[limit.key] = value;
    output.textContent = words();
    input.setAttribute("aria-valuetext", words());
    drawChoice();
  });
  return el("label", {}, t(limit.label), output, input);
}

function drawChoice() {
  const [basis, row] = pick(), ok = groupRows().filter((each) => each.status === "ok");
  const count = el("p", { class: "small" }, t("p.within", { n: ok.filter(fits).length, all: ok.length }));
  if (!row) return $("choice").replaceChildren(el("p", {}, t("p.none_fits")), count);
  const run = data.runs[row.id];
  const facts = [[metricName("stored_bytes"), `${mib(row.stored_bytes)} (${fixed(row.compression_vs_fp32)}× FP32)`],
    [metricName("mean_relative_error"), short(row.mean_relative_error)], [metricName("speedup"), speedup(row)]];
  if (has(row, "fp32.comparable_ms_median")) {
    facts.push([t("chart.latency"), `${milliseconds(row["fp32.comparable_ms_median"])}${dagger(row)}`]);
  }
  $("choice").replaceChildren(
    el("p", {}, el("span", { class: "name", "data-row": row.id }, row.title), gradeChip(row)),
    ...(t(`p.basis.${basis}`) ? [el("p", {}, t(`p.basis.${basis}`))] : []),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    el("p", {}, originButton(row, t("p.origin"))),
    el("h3", {}, t("p.reproduce")), commandLine(run.command || DASH),
    el("h3", {}, t("p.export")), run.export ? commandLine(run.export) : el("p", {}, t("p.no_export")), count);
}

views.push(() => {
  for (const limit of LIMITS) if (!steps(limit).includes(budget.limits[limit.key])) delete budget.limits[limit.key];
  const needs = data.needs.map((need) => [need, t(`need.${need}`)]);
  $("limits").replaceChildren(
    select(t("p.need"), needs, budget.need, (value) => { budget.need = value; drawChoice(); }, "need"),
    ...LIMITS.map(slider), el("p", { class: "small" }, t("p.latency_note")));
  drawChoice();
});
$("limits").addEventListener("submit", (event) => event.preventDefault());
