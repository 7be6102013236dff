// Numbers in words, as the tables of the other files of the report have them.
const DASH = "–";
const fixed = (value, digits = 2) => (value === null || value === undefined ? DASH : value.toFixed(digits));
const mib = (bytes) => (bytes === null || bytes === undefined ? DASH
  : (bytes / 2 ** 20).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 }));
function short(value) {
  if (value === null || value === undefined) return DASH;
  if (Math.abs(value) >= 100) return value.toFixed(0);
  return Number(value.toPrecision(3)).toString();
}
function signed(value, digits = 3) {
  const size = Math.abs(value);
  return value === 0 ? "0" : `${value < 0 ? "−" : "+"}${digits === null ? short(size) : size.toFixed(digits)}`;
}
// A change of 0.0004 is not 0.000.
function digitsOf(values, decimals = 3) {
  const most = Math.max(...values.map((value) => Math.abs(value ?? 0)));
  return decimals !== null && most < 10 ** (1 - decimals) ? decimals + 1 : decimals;
}
// The label of a metric, as a heading.
function metricName(name) {
  const label = t(`metric.${name}`);
  return label.slice(0, 1).toUpperCase() + label.slice(1);
}
const dagger = (row) => (row.simulated === false ? "" : " †");
const milliseconds = (value) => `${short(value)} ms`;

function spread(row, reference) {
  const low = row[`${reference}.speedup_q25`], high = row[`${reference}.speedup_q75`];
  return low === null || high === null ? "" : `(${low.toFixed(2)}–${high.toFixed(2)})`;
}
function speedup(row, reference = "fp32") {
  const value = row[`${reference}.speedup`];
  return value === null ? DASH : `${value.toFixed(2)}×${dagger(row)} ${spread(row, reference)}`.trim();
}
function gradeName(row) {
  if (row.status !== "ok") return t("failed");
  return row.non_finite ? t("non_finite") : row.grade ? t(row.grade) : DASH;
}
const gradeClass = (row) => (row.status !== "ok" ? "failed" : row.non_finite ? "poor" : row.grade || "");
const gradeChip = (row) => el("span", { class: `grade ${gradeClass(row)}` }, gradeName(row));

function named(prefix, value) {
  if (value === null) return DASH;
  return data.texts[state.lang][`${prefix}${value}`] || String(value);
}
const granularity = (row) => named("p.granularity.", row.granularity);

// What a mark of a chart says: one line each.
function summary(row) {
  return [
    row.title,
    t("p.at_mib", { mib: mib(row.stored_bytes), x: fixed(row.compression_vs_fp32) }),
    t("p.at_error", { error: short(row.mean_relative_error), grade: gradeName(row) }),
    ...(has(row, "fp32.speedup") ? [`${metricName("speedup")}: ${speedup(row)}`] : []),
  ].join("\n");
}
