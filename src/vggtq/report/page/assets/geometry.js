// Two models on one scene, side by side.
const look = { scene: 0, frame: 0, sides: ["reference", ""] };

const scenesOf = (group) => data.geometry.scenes.filter((scene) => scene.group === group);
const sideOf = (scene, key) => (key === "reference" ? scene.reference : scene.runs[key]);
const sideName = (key) => (key === "reference" ? t("p.fp32") : rows[key].title);

function choose(scenes) {
  const scene = scenes[look.scene];
  const options = [["reference", t("p.fp32")], ...Object.keys(scene.runs).map((id) => [id, rows[id].title])];
  const side = (i, name) => select(t(name), options, look.sides[i],
    (value) => { look.sides[i] = value; drawGeometry(); }, `side-${"ab"[i]}`);
  const origins = look.sides.filter((key) => key !== "reference").map((key) =>
    originButton(rows[key], `${t("p.origin_of")}${t("colon")}${rows[key].title}`));
  $("geometry-choice").replaceChildren(
    select(t("scene"), scenes.map((each, i) => [String(i), each.name]), String(look.scene),
      (value) => { Object.assign(look, { scene: Number(value), frame: 0 }); drawGeometry(true); }, "scene"),
    select(t("p.frame"), Array.from({ length: scene.frames }, (_, i) => [String(i), String(i + 1)]), String(look.frame),
      (value) => { look.frame = Number(value); drawGeometry(); }, "frame"),
    side(0, "p.first"), side(1, "p.second"), ...origins);
}

function vertices(side) {
  const colors = blob(side.color);
  return positionsOf(side).flatMap((point, i) => (point
    ? [...point, colors[3 * i] / 255, colors[3 * i + 1] / 255, colors[3 * i + 2] / 255] : []));
}

function drawClouds(scene, sides, aimAnew) {
  if (!clouds.length && ![makeCloud($("cloud-a")), makeCloud($("cloud-b"))].every(Boolean)) {
    $("geometry-notes").append(el("p", { class: "note" }, t("p.no_webgl")));
    return;
  }
  if (aimAnew) aim(positionsOf(scene.reference).filter(Boolean));
  const grey = scene.reference.cameras.flatMap((camera) => frustum(camera, 0.14 * home.extent, [0.55, 0.55, 0.55]));
  sides.forEach((side, i) => {
    load(clouds[i], clouds[i].points, vertices(side));
    const own = side.cameras.flatMap((camera) => frustum(camera, 0.14 * home.extent, i ? [0.9, 0.45, 0.1] : [0.1, 0.5, 0.85]));
    load(clouds[i], clouds[i].lines, side === scene.reference ? own : [...own, ...grey]);
  });
  renderAll();
}

function notes() {
  const { problems, left_out } = data.geometry;
  return [...problems.map(({ row, reason }) => t("p.problem", { title: rows[row].title, reason })),
    ...(left_out ? [t("p.left_out", { n: left_out })] : [])];
}

function drawGeometry(aimAnew = false) {
  const scenes = scenesOf(state.group);
  $("geometry-intro").textContent = t("p.geometry_intro", { points: data.geometry.points, frames: data.geometry.frames });
  $("geometry-view").hidden = !scenes.length;
  $("geometry-notes").replaceChildren(...[...notes(), ...(scenes.length ? [] : [t("p.no_geometry")])]
    .map((words) => el("p", { class: "note" }, words)));
  if (!scenes.length) return;
  if (look.scene >= scenes.length) Object.assign(look, { scene: 0, frame: 0 });
  const scene = scenes[look.scene], runs = Object.keys(scene.runs);
  // the run that lost most is where there is most to see
  const worst = runs.reduce((a, b) => ((rows[b].mean_relative_error ?? -1) > (rows[a].mean_relative_error ?? -1) ? b : a));
  look.sides = look.sides.map((key, i) => (sideOf(scene, key) ? key : i ? worst : "reference"));
  choose(scenes);
  const sides = look.sides.map((key) => sideOf(scene, key));
  look.sides.forEach((key, i) => {
    const name = `${"AB"[i]}${t("colon")}${sideName(key)}`, letter = "ab"[i];
    $(`depth-${letter}-title`).textContent = t("p.depth", { title: name });
    $(`cloud-${letter}-title`).textContent = t("p.cloud", { title: name });
    $(`cloud-${letter}`).setAttribute("aria-label", `${t("p.cloud", { title: name })}; ${t("p.cloud_keys")}`);
  });
  drawDepths(scene, ...sides, look.frame);
  swipe();
  drawClouds(scene, sides, aimAnew);
}

let drawnGroup = null;
views.push(() => {
  drawGeometry(drawnGroup !== state.group);
  drawnGroup = state.group;
});
$("view-reset").addEventListener("click", resetView);
