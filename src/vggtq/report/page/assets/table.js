// The runs: sorted by any column, filtered by what differs among them.
const PAGE_ROWS = 200;
const table = { sort: null, down: false, limit: PAGE_ROWS, search: "", filters: {} };
const GRADES = [...data.grades].reverse(); // worst first

const FILTERS = [
  ["scheme", () => t("label"), (row) => [row.scheme]],
  ["bits", () => t("p.bits"), (row) => [row.bits]],
  ["granularity", () => t("p.granularity"), (row) => [row.granularity], (row) => granularity(row)],
  ["group_size", () => t("p.group_size"), (row) => [row.group_size]],
  ["scene", () => t("scene"), (row) => row.scenes],
  ["grade", () => t("grade"), (row) => [row.status === "ok" ? row.grade : "failed"], (row) => gradeName(row)],
];

function change(row, metric) {
  const [mean, low, high] = ["mean", "low", "high"].map((end) => row[`geometry.change.${metric.name}.${end}`]);
  if (!Number.isFinite(mean)) return [DASH];
  const digits = digitsOf([mean, low, high], metric.decimals);
  const verdict = row[`geometry.change.${metric.name}.verdict`];
  const told = verdict === "better" || verdict === "worse" ? " *" : "";
  const ends = Number.isFinite(low) ? `[${signed(low, digits)}, ${signed(high, digits)}]` : verdict === "few" ? t("few.short") : null;
  return [signed(mean, digits) + told, ends];
}

// What the table of metrics says of a column: its heading, what it is sorted by, and how it is written.
const CELLS = {
  bytes: (row, metric) => [mib(row[metric.column])],
  value: (row, metric) => [metric.decimals === null ? short(row[metric.column]) : fixed(row[metric.column], metric.decimals)],
  speedup: (row) => (has(row, "fp32.speedup") ? [`${fixed(row["fp32.speedup"])}×${dagger(row)}`, spread(row, "fp32")] : [DASH]),
  change,
};
function metricHeading({ name, kind, unit, output }) {
  const behind = unit ? ` (${unit})` : "";
  if (kind === "change") return t("p.change", { name: t(`metric.${name}`) + behind });
  return (output ? `${output} ${t(`metric.${name}`)}` : metricName(name)) + behind;
}
const METRICS = data.metrics.map((metric) => ({
  key: metric.column,
  title: () => metricHeading(metric),
  sort: (row) => row[metric.kind === "change" ? `geometry.change.${metric.name}.mean` : metric.column] ?? null,
  cell: (row) => CELLS[metric.kind](row, metric),
}));

// heading, value to sort by, [text, what stands below it in small]; left-aligned where there are words
const COLUMNS = [
  { key: "label", sort: (row) => row.title },
  { key: "grade", sort: (row) => (row.status === "ok" && row.grade ? GRADES.indexOf(row.grade) : null), text: true },
  { key: "p.bits", sort: (row) => row.bits },
  { key: "p.granularity", sort: (row) => row.granularity, cell: (row) => [granularity(row)], text: true },
  { key: "p.group_size", sort: (row) => row.group_size },
  ...METRICS,
];

// Runs that can be compared: no ranking, filter or chart ever mixes two groups.
const groupRows = () => rows.filter((row) => row.group === state.group);

function matches(row) {
  const words = [row.title, row.name, row.model, row.dataset, row.error, ...row.scenes].join(" ").toLowerCase();
  return words.includes(table.search.toLowerCase()) && FILTERS.every(([key, , values]) =>
    !table.filters[key] || values(row).some((value) => String(value) === table.filters[key]));
}

function compare(left, right) {
  if (typeof left === "number" && typeof right === "number") return left - right;
  return String(left).localeCompare(String(right), "en", { numeric: true });
}

function filtered() {
  const shown = groupRows().filter(matches);
  const column = COLUMNS.find((each) => each.key === table.sort);
  if (!column) return shown;
  const known = shown.filter((row) => column.sort(row) !== null);
  known.sort((a, b) => (table.down ? -1 : 1) * compare(column.sort(a), column.sort(b)));
  return [...known, ...shown.filter((row) => column.sort(row) === null)]; // what is unknown stays last
}

function heading(column) {
  const sorted = table.sort !== column.key ? "none" : table.down ? "descending" : "ascending";
  const sort = () => {
    table.down = table.sort === column.key && !table.down;
    table.sort = column.key;
    drawBody();
    for (const other of $("table").querySelectorAll("thead th")) {
      const own = other.dataset.key === column.key;
      other.setAttribute("aria-sort", own ? (table.down ? "descending" : "ascending") : "none");
    }
  };
  const cls = column.text || column.key === "label" ? "text" : null;
  return el("th", { scope: "col", "aria-sort": sorted, "data-key": column.key, class: cls },
    el("button", { type: "button", onclick: sort }, column.title ? column.title() : t(column.key)));
}

function line(row) {
  // any number leads to its run; whoever marks one to copy it stays here, and the name is a button of its own
  const onclick = (event) => { if (!event.target.closest("button") && getSelection().isCollapsed) showOrigin(row); };
  const name = el("th", { scope: "row", class: "text" }, originButton(row), row.calibrated_elsewhere ? " ‡" : null);
  if (row.status !== "ok") {
    return el("tr", { "data-row": row.id, onclick }, name, el("td", { class: "text" }, gradeChip(row)),
      el("td", { class: "reason", colspan: COLUMNS.length - 2 }, row.error || "?"));
  }
  const cells = COLUMNS.slice(2).map((column) => {
    const [text, below] = column.cell ? column.cell(row) : [column.sort(row) ?? DASH];
    return el("td", { class: column.text ? "text" : "value" }, String(text),
      below ? el("span", { class: "range" }, below) : null);
  });
  return el("tr", { "data-row": row.id, onclick }, name, el("td", { class: "text" }, gradeChip(row)), ...cells);
}

function drawBody() {
  const shown = filtered();
  const body = $("table").tBodies[0] || $("table").createTBody();
  body.replaceChildren(...shown.slice(0, table.limit).map(line));
  $("shown").textContent = t("p.shown", { shown: Math.min(shown.length, table.limit), all: groupRows().length });
  const rest = Math.min(PAGE_ROWS, shown.length - table.limit);
  $("more").hidden = rest <= 0;
  $("more").textContent = t("p.more", { n: rest });
}

function filterBox([key, label, values, words]) {
  const seen = new Map();
  for (const row of groupRows()) {
    for (const value of values(row)) {
      if (value !== null && value !== undefined) seen.set(String(value), words ? words(row) : String(value));
    }
  }
  if (seen.size < 2) return null; // nothing to choose
  const options = [...seen].sort((a, b) => compare(a[0], b[0]));
  return select(label(), [["", t("p.any")], ...options], table.filters[key] || "",
    (value) => { table.filters[key] = value; changed(); }, `filter-${key}`);
}

function changed() {
  table.limit = PAGE_ROWS;
  drawBody();
  drawCharts();
}

function drawFilters() {
  const search = el("input", { type: "search", id: "search", placeholder: t("p.search_hint"), value: table.search,
    oninput: (event) => { table.search = event.target.value; changed(); } });
  const reset = () => { table.search = ""; table.filters = {}; table.sort = null; refresh(); $("search").focus(); };
  $("filters").replaceChildren(...[el("label", {}, t("p.search"), search), ...FILTERS.map(filterBox),
    el("button", { type: "button", id: "reset", onclick: reset }, t("p.reset"))].filter(Boolean));
}

views.push(() => {
  drawFilters();
  $("table").replaceChildren(el("caption", { hidden: true }, t("p.runs")),
    el("thead", {}, el("tr", {}, ...COLUMNS.map(heading))), el("tbody"));
  drawBody();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => { table.limit += PAGE_ROWS; drawBody(); });
