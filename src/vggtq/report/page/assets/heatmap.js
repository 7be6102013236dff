// How much each layer loses under each scheme: one row for each run, one column for each layer of the network.
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
const DIVERGING = ["2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b"];

function ramp(colours, share) {
  const at = Math.max(0, Math.min(1, share)) * (colours.length - 1), i = Math.min(Math.floor(at), colours.length - 2);
  return [0, 2, 4].map((k) => {
    const [low, high] = [i, i + 1].map((j) => parseInt(colours[j].slice(k, k + 2), 16));
    return Math.round(low + (high - low) * (at - i));
  });
}
function rampCanvas(colours) {
  const canvas = el("canvas", { class: "ramp", width: 128, height: 1, "aria-hidden": "true" }), context = canvas.getContext("2d");
  for (let i = 0; i < 128; i++) {
    context.fillStyle = `rgb(${ramp(colours, i / 127).join(",")})`;
    context.fillRect(i, 0, 1, 1);
  }
  return canvas;
}

function drawHeat(shown) {
  const title = t("p.chart_heat");
  const known = shown.filter((row) => data.layers.rows[row.id]);
  const used = data.layers.names.map((_, i) => i).filter((i) => known.some((row) => data.layers.rows[row.id][i] !== null));
  if (!used.length) return show("chart-heat", title, [el("p", {}, t("p.nothing"))]);
  const lines = telling(known);
  const values = lines.flatMap((row) => used.map((i) => data.layers.rows[row.id][i])).filter((v) => typeof v === "number");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [W, left, top, step] = [1300, 210, 8, 20], cell = (W - left - 8) / used.length;
  const words = (row, i) => {
    const value = data.layers.rows[row.id][i];
    const level = value === "exact" ? t("p.heat_exact") : value === null ? t("p.heat_kept") : `${value.toFixed(1)} dB`;
    return `${row.title}\n${data.layers.names[i]}\n${level}`;
  };
  const cells = lines.flatMap((row, y) => used.map((i, x) => {
    const value = data.layers.rows[row.id][i];
    const rect = svg("rect", { x: left + x * cell, y: top + y * step, width: Math.max(cell - (cell > 6 ? 1 : 0), 0.5),
      height: step - 2, class: value === "exact" ? "exact" : value === null ? "kept" : null });
    if (typeof value === "number") rect.style.fill = `rgb(${ramp(VIRIDIS, (value - low) / (high - low || 1)).join(",")})`;
    return rect;
  }));
  const bottom = top + step * lines.length;
  const cursor = svg("rect", { class: "cursor", width: cell, height: step - 2, visibility: "hidden" });
  const map = svg("svg", { class: "chart", viewBox: `0 0 ${W} ${bottom + 44}`, tabindex: 0, role: "img", "aria-label": title },
    ...cells, ...lines.map((row, y) => svg("text", { class: "row", x: left - 8, y: top + y * step + 14, "text-anchor": "end" }, clip(row.title, 27))),
    ...parts(used.map((i) => data.layers.names[i]), left, cell, bottom), cursor);
  const place = { x: 0, y: 0 };
  const point = (x, y, clientX, clientY) => {
    Object.assign(place, { x, y });
    fill(cursor, { x: left + x * cell, y: top + y * step, visibility: "visible" }, []);
    showTip(words(lines[y], used[x]), clientX, clientY);
    map.setAttribute("aria-label", `${title}: ${words(lines[y], used[x]).replaceAll("\n", ", ")}`);
  };
  const leave = () => { cursor.setAttribute("visibility", "hidden"); hideTip(); };
  map.addEventListener("pointermove", (event) => {
    const box = map.getBoundingClientRect(), scale = W / box.width;
    const x = Math.floor(((event.clientX - box.left) * scale - left) / cell), y = Math.floor(((event.clientY - box.top) * scale - top) / step);
    if (x >= 0 && y >= 0 && x < used.length && y < lines.length) point(x, y, event.clientX, event.clientY);
    else leave();
  });
  map.addEventListener("pointerleave", leave);
  map.addEventListener("blur", leave);
  const byKey = (x, y) => {
    const box = map.getBoundingClientRect(), scale = box.width / W;
    point(x, y, box.left + (left + (x + 1) * cell) * scale, box.top + (top + y * step) * scale);
  };
  map.addEventListener("focus", () => map.matches(":focus-visible") && byKey(place.x, place.y));
  map.addEventListener("click", () => lines[place.y] && showOrigin(lines[place.y]));
  map.addEventListener("keydown", (event) => {
    const step_ = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === "Enter") showOrigin(lines[place.y]);
    if (!step_) return;
    event.preventDefault();
    byKey(Math.max(0, Math.min(used.length - 1, place.x + step_[0])), Math.max(0, Math.min(lines.length - 1, place.y + step_[1])));
  });
  const exact = lines.some((row) => used.some((i) => data.layers.rows[row.id][i] === "exact"));
  show("chart-heat", title, [
    el("div", { class: "legend" }, el("span", {}, `${low.toFixed(1)} dB`, rampCanvas(VIRIDIS), `${high.toFixed(1)} dB`),
      legend([["kept", SHAPES[1], t("p.heat_kept")], ...(exact ? [["exact", SHAPES[1], t("p.heat_exact")]] : [])])),
    el("div", { class: "heat-scroll" }, map), el("p", { class: "small" }, t("p.heat_axis"))],
  lines.length < known.length ? t("p.cut", { n: lines.length, all: known.length }) : null);
}

// Where the parts of the network begin: by the first two words of the layers' names where they have room, else by the first.
function sections(layers, words) {
  const found = [];
  layers.forEach((layer, x) => {
    const name = layer.split(".").slice(0, words).filter((word) => !/^\d+$/.test(word)).join(".");
    if (!found.length || found.at(-1).name !== name) found.push({ name, x, end: x + 1 });
    else found.at(-1).end = x + 1;
  });
  return found;
}
function parts(layers, left, cell, bottom) {
  const fine = sections(layers, 2), room = ({ name, x, end }) => 6.7 * name.length + 8 < (end - x) * cell;
  const shown = sections(layers, 1).flatMap((part) => {
    const own = fine.filter(({ x }) => x >= part.x && x < part.end);
    return own.every(room) ? own : [part];
  });
  return shown.flatMap((part, k) => {
    const at = left + part.x * cell, lower = k % 2 && !shown.every(room) ? 16 : 0, end = at + 6.7 * part.name.length > 1300;
    return [svg("line", { class: "one", x1: at, x2: at, y1: 6, y2: bottom + 8 + lower }),
      svg("text", { x: end ? 1296 : at + 3, y: bottom + 14 + lower, "text-anchor": end ? "end" : "start" }, part.name)];
  });
}
