// Depth maps of two models on one colour scale, and what differs between them.
const LEVELS = 65534; // 65535 marks what is not finite

function depthOf(scene, side, frame) {
  const [h, w] = scene.size, [low, high] = side.depth_range;
  const levels = blob(side.depth, Uint16Array).subarray(frame * h * w, (frame + 1) * h * w);
  return Float32Array.from(levels, (level) => (level > LEVELS ? NaN : low + (level / LEVELS) * (high - low)));
}

// Sizes the canvas to (h, w) and colours each pixel by `colour(i)`, [r, g, b].
function paint(canvas, [h, w], colour) {
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d"), image = context.createImageData(w, h);
  for (let i = 0; i < h * w; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}

function percentile(values, share) {
  const sorted = Float32Array.from(values.filter(Number.isFinite)).sort();
  return sorted.length ? sorted[Math.round(share * (sorted.length - 1))] : NaN;
}

const HOLE = [128, 128, 128];
const shade = (colours, share) => (Number.isFinite(share) ? ramp(colours, share) : HOLE);

function drawDepths(scene, first, second, frame) {
  const pixels = blob(scene.image), offset = frame * scene.size[0] * scene.size[1] * 3;
  paint($("input"), scene.size, (i) => pixels.subarray(offset + 3 * i, offset + 3 * i + 3));
  // one scale for all frames and both models: the 2nd to the 98th percentile of FP32
  const reference = Array.from({ length: scene.frames }, (_, i) => [...depthOf(scene, scene.reference, i)]).flat();
  const [low, high] = [percentile(reference, 0.02), percentile(reference, 0.98)];
  const [a, b] = [first, second].map((side) => depthOf(scene, side, frame));
  for (const [ids, depth] of [[["depth-a", "swipe-a"], a], [["depth-b", "swipe-b"], b]]) {
    for (const id of ids) paint($(id), scene.size, (i) => shade(VIRIDIS, (depth[i] - low) / (high - low || 1)));
  }
  const relative = a.map((value, i) => (b[i] - value) / Math.max(Math.abs(value), 1e-12));
  const limit = percentile(relative.map(Math.abs), 0.99) || 0;
  paint($("difference"), scene.size, (i) => shade(DIVERGING, limit ? 0.5 + relative[i] / (2 * limit) : relative[i] + 0.5));
  const bar = (title, from, colours, to) => el("span", {}, `${title} ${from}`, rampCanvas(colours), to);
  const percent = short(100 * limit);
  $("scales").replaceChildren(
    bar(t("p.depth", { title: "A, B" }), short(low), VIRIDIS, short(high)),
    bar(t("p.difference"), limit ? `−${percent} %` : "0", DIVERGING, limit ? `+${percent} %` : "0"));
}

function swipe() {
  const share = Number($("swipe").value);
  $("swipe-a").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  $("swipe-line").style.left = `calc(${share}% - 1px)`;
}
$("swipe").addEventListener("input", swipe);
$("swipe-b").parentElement.addEventListener("pointermove", (event) => {
  const box = $("swipe-b").getBoundingClientRect();
  $("swipe").value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
  swipe();
});
