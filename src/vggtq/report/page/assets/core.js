// Data, language, theme, and the one way in which elements are made: text from data becomes text nodes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.rows.values.map((values, id) => {
  const row = { id };
  data.rows.columns.forEach((name, i) => { row[name] = values[i]; });
  return row;
});
const state = {
  lang: data.lang,
  theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
  group: (data.groups.find((group) => group.number) || data.groups[0]).number,
};
const $ = (id) => document.getElementById(id);
const has = (row, name) => row[name] !== null && row[name] !== undefined;

function t(key, values = {}) {
  const words = data.texts[state.lang][key];
  if (words === undefined) throw new Error(`no text ${key}`);
  return words.replace(/\{(\w+)(?::([^|}]*)\|([^}]*))?\}/g, (_, name, one, many) => {
    const value = values[name];
    return one === undefined ? String(value) : `${value} ${value === 1 ? one : many}`;
  });
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const el = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);
const svg = (tag, properties = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

// Views draw themselves anew when the language, the shown group or the filtered runs change.
const views = [];
function refresh() {
  document.documentElement.lang = state.lang === "zh" ? "zh-CN" : "en";
  document.documentElement.dataset.theme = state.theme;
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
  hideTip();
  for (const view of views) view();
}

function select(label, options, value, change, id) {
  const box = el("select", { id, onchange: (event) => change(event.target.value) },
    ...options.map(([key, words]) => el("option", { value: key }, words)));
  box.value = value;
  return el("label", {}, label, box);
}

function showTip(words, x, y) {
  const tip = $("tip");
  tip.textContent = words;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 4))}px`;
  tip.style.top = `${y + 18 + height > innerHeight ? Math.max(4, y - height - 10) : y + 18}px`;
}
function hideTip() { $("tip").hidden = true; }

// base64 of little-endian numbers, decoded once.
const decoded = new Map();
function blob(index, kind = Uint8Array) {
  if (!decoded.has(index)) {
    const text = atob(data.geometry.blobs[index]);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    decoded.set(index, bytes.buffer);
  }
  return new kind(decoded.get(index));
}
