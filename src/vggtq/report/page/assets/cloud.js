// Points and camera frusta in WebGL; all views share one camera that orbits a target. Axes are OpenCV's: y points down.
const orbit = { yaw: 0, pitch: 0, distance: 1, target: [0, 0, 0], extent: 1 };
const clouds = [];
const VERTEX = `attribute vec3 position; attribute vec3 color; uniform mat4 view; uniform float size; varying vec3 shade;
void main() { gl_Position = view * vec4(position, 1.0); gl_PointSize = clamp(size / gl_Position.w, 1.5, 14.0); shade = color; }`;
const FRAGMENT = "precision mediump float; varying vec3 shade; void main() { gl_FragColor = vec4(shade, 1.0); }";

const minus = (a, b) => a.map((v, i) => v - b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((v) => v / (Math.hypot(...a) || 1));

function makeCloud(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, alpha: true, preserveDrawingBuffer: true });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const cloud = { gl, canvas, program, points: { count: 0 }, lines: { count: 0 } };
  for (const part of [cloud.points, cloud.lines]) part.buffer = gl.createBuffer();
  clouds.push(cloud);
  listen(canvas);
  return cloud;
}

// Six numbers for each vertex: position and colour.
function load(cloud, part, vertices) {
  const { gl } = cloud;
  part.count = vertices.length / 6;
  gl.bindBuffer(gl.ARRAY_BUFFER, part.buffer);
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(vertices), gl.STATIC_DRAW);
}

// Column-major: perspective × look-at, with y down as up is −y.
function viewMatrix(aspect) {
  const { yaw, pitch, distance, target } = orbit;
  const back = [-Math.sin(yaw) * Math.cos(pitch), -Math.sin(pitch), -Math.cos(yaw) * Math.cos(pitch)];
  const eye = target.map((v, i) => v + distance * back[i]);
  const forward = back.map((v) => -v), right = unit(cross([0, 1, 0], forward)), down = cross(forward, right);
  const f = 1 / Math.tan(0.45), near = distance * 0.02, far = distance + 20 * orbit.extent;
  const z = (far + near) / (far - near), w = (-2 * far * near) / (far - near);
  const rows4 = [[...right.map((v) => (v * f) / aspect), (-dot(right, eye) * f) / aspect],
    [...down.map((v) => -v * f), dot(down, eye) * f], [...forward.map((v) => v * z), -dot(forward, eye) * z + w],
    [...forward, -dot(forward, eye)]];
  return new Float32Array([0, 1, 2, 3].flatMap((column) => rows4.map((row) => row[column])));
}

function render(cloud) {
  const { gl, canvas, program } = cloud, scale = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  gl.viewport(0, 0, canvas.width, canvas.height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, viewMatrix(canvas.width / canvas.height));
  gl.uniform1f(gl.getUniformLocation(program, "size"), 0.02 * orbit.extent * canvas.height);
  for (const [part, mode] of [[cloud.points, gl.POINTS], [cloud.lines, gl.LINES]]) {
    gl.bindBuffer(gl.ARRAY_BUFFER, part.buffer);
    for (const [name, offset] of [["position", 0], ["color", 12]]) {
      const place = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 24, offset);
    }
    if (mode === gl.LINES) gl.clear(gl.DEPTH_BUFFER_BIT); // cameras are never hidden by points
    gl.drawArrays(mode, 0, part.count);
  }
}
function renderAll() { for (const cloud of clouds) render(cloud); }

function turn(dx, dy) {
  orbit.yaw += dx;
  orbit.pitch = Math.max(-1.5, Math.min(1.5, orbit.pitch + dy));
  renderAll();
}
function zoom(factor) {
  orbit.distance = Math.max(0.05 * orbit.extent, Math.min(20 * orbit.extent, orbit.distance * factor));
  renderAll();
}
let home = { ...orbit };
function resetView() { Object.assign(orbit, home); renderAll(); }

// Looks at the middle of the points from a little above and beside the first camera, which looks along z.
function aim(positions) {
  const middle = [0, 1, 2].map((k) => percentile(positions.map((p) => p[k]), 0.5));
  const far = percentile(positions.map((p) => Math.hypot(...minus(p, middle))), 0.9) || 1;
  home = { yaw: 0.45, pitch: 0.3, distance: 2.6 * far, target: middle, extent: far };
  resetView();
}

function listen(canvas) {
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) turn(event.movementX * 0.008, event.movementY * 0.008);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.001));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    if (moves[event.key]) turn(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(0.9);
    else if (event.key === "-") zoom(1 / 0.9);
    else if (event.key === "0") resetView();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(renderAll).observe(canvas);
}

// Points of one model as [x, y, z] in the frame of its first camera; null where not finite.
function positionsOf(side) {
  const levels = blob(side.points, Uint16Array), [low, high] = side.box, found = [];
  for (let i = 0; i < levels.length; i += 3) {
    const own = [0, 1, 2].map((k) => levels[i + k]);
    found.push(own.some((level) => level > LEVELS) ? null
      : own.map((level, k) => low[k] + (level / LEVELS) * (high[k] - low[k])));
  }
  return found;
}

// The eight edges of a camera's frustum; `camera` is extrinsics (3 × 4, world to camera) and the tangents of half the field of view.
function frustum(camera, depth, color) {
  const world = (point) => {
    const p = [0, 1, 2].map((i) => point[i] - camera[4 * i + 3]);
    return [0, 1, 2].map((j) => camera[j] * p[0] + camera[4 + j] * p[1] + camera[8 + j] * p[2]);
  };
  const [x, y] = [camera[12] * depth, camera[13] * depth];
  const tip = world([0, 0, 0]), corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([u, v]) => world([u, v, depth]));
  const edges = corners.flatMap((corner, i) => [[tip, corner], [corner, corners[(i + 1) % 4]]]);
  return edges.flat().flatMap((point) => [...point, ...color]);
}
