// What rounding each layer to each width costs the outputs, of runs whose bits were found, and which width each layer got.
let sensitivityOf = null; // id of the run that is shown

function drawSensitivity(shown) {
  const title = t("p.chart_sensitivity");
  const known = shown.filter((row) => data.sensitivities.rows[row.id]);
  $("chart-sensitivity").hidden = !known.length;
  if (!known.length) return;
  const row = known.find(({ id }) => id === sensitivityOf) ?? known[0];
  const { map, picked } = data.sensitivities.rows[row.id], { bits, layers, errors } = data.sensitivities.maps[map];
  const positive = errors.flat().filter((value) => value > 0).map(Math.log10);
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  const [W, left, top, step] = [1300, 70, 8, 24], cell = (W - left - 8) / layers.length, bottom = top + step * bits.length;
  const cells = layers.flatMap((name, x) => bits.map((width, k) => {
    const y = bits.length - 1 - k, own = picked[x] === width;
    const words = `${name}\n${width} bits: ${percent(errors[x][k])}${own ? `\n${t("p.sensitivity_picked")}` : ""}`;
    const rect = svg("rect", { x: left + x * cell, y: top + y * step, width: Math.max(cell - (cell > 6 ? 1 : 0), 0.5), height: step - 2 });
    const share = errors[x][k] > 0 ? (Math.log10(errors[x][k]) - low) / (high - low || 1) : 0;
    rect.style.fill = `rgb(${ramp(VIRIDIS, share).join(",")})`;
    const dot = own && svg("circle", { class: "picked", cx: left + (x + 0.5) * cell, cy: top + y * step + step / 2 - 1, r: Math.min(4.5, cell / 3) });
    return mark(row, words, "", rect, dot || null);
  }));
  const names = bits.map((width, k) =>
    svg("text", { class: "row", x: left - 8, y: top + (bits.length - 1 - k) * step + 15, "text-anchor": "end" }, `${width} bits`));
  const chosen = select(t("p.sensitivity_run"), known.map(({ id, title: words }) => [id, words]), row.id, (id) => {
    sensitivityOf = Number(id);
    drawSensitivity(shown);
  }, "sensitivity-run");
  show("chart-sensitivity", title, [
    el("div", { class: "legend" }, chosen, el("span", {}, percent(10 ** low), rampCanvas(VIRIDIS), percent(10 ** high)),
      legend([["picked", (cx, cy) => svg("circle", { cx, cy, r: 4.5 }), t("p.sensitivity_picked")]])),
    el("div", { class: "heat-scroll" },
      chart(W, bottom + 44, title, ...cells, ...names, ...parts(layers, left, cell, bottom))),
    el("p", { class: "small" }, t("p.sensitivity_axis"))]);
}
const percent = (share) => `${(100 * share).toPrecision(2)} %`;
