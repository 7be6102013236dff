// The frame of the page: language, theme, printing, which group is shown.
views.push(() => {
  $("theme").textContent = t(state.theme === "dark" ? "p.theme_light" : "p.theme_dark");
  $("counts").textContent = t("counts", data.overview);
  $("generated").textContent = t("generated", { when: data.overview.generated, folders: data.overview.folders.join(", ") });
  $("group").hidden = data.groups.length < 2;
  $("group-choice").replaceChildren(...data.groups.map((group) => {
    const { name, line } = group.text[state.lang];
    return el("option", { value: group.number, selected: group.number === state.group }, line ? `${name}: ${line}` : name);
  }));
  const { line, notes: words } = groupOf(state.group).text[state.lang];
  $("group-notes").replaceChildren(...(data.groups.length < 2 && line ? [el("p", { class: "small" }, line)] : []),
    ...words.map((note) => el("p", { class: "note" }, note)));
  $("unreadable").hidden = !data.unreadable.length;
  $("unreadable").lastElementChild.replaceChildren(...data.unreadable.map((file) =>
    el("li", {}, `${file.path}${t("colon")}${file.reason[state.lang]}`)));
});

$("language").addEventListener("click", () => { state.lang = state.lang === "en" ? "zh" : "en"; refresh(); });
$("theme").addEventListener("click", () => { state.theme = state.theme === "dark" ? "light" : "dark"; refresh(); });
$("print").addEventListener("click", () => print());
$("group-choice").addEventListener("change", (event) => {
  state.group = Number(event.target.value);
  table.filters = {};
  refresh();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
  state.theme = event.matches ? "dark" : "light";
  refresh();
});
$("origin").addEventListener("click", (event) => { if (event.target === $("origin")) $("origin").close(); });
$("geometry-choice").addEventListener("submit", (event) => event.preventDefault());
refresh();
