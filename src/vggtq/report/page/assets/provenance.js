// One click from a number to the run that measured it: command, configuration, environment, record.
function originButton(row, words = row.title) {
  return el("button", { type: "button", class: "link", "aria-haspopup": "dialog", "aria-label":
    t("p.details_of", { title: row.title }), onclick: () => showOrigin(row) }, words);
}

function settings(id, kind) {
  const own = { ...data.first[kind], ...data.runs[id][kind] };
  return Object.entries(own).filter(([, value]) => value !== null);
}

function pairs(entries) {
  return el("table", {}, el("tbody", {}, ...entries.map(([name, value]) =>
    el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))));
}

function commandLine(words) {
  const status = el("span", { role: "status" }, "");
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(words);
    } catch { // pages from disk may not be allowed to: select it, so that Ctrl+C does
      getSelection().selectAllChildren(shown);
      return;
    }
    status.textContent = t("p.copied");
  };
  const shown = el("pre", {}, words);
  return el("div", { class: "command" }, shown, el("button", { type: "button", onclick: copy }, t("p.copy")), status);
}

function folded(title, content, open = false) {
  return el("details", { open }, el("summary", {}, title), content);
}

function showOrigin(row) {
  hideTip();
  const run = data.runs[row.id], dialog = $("origin");
  const facts = [
    [t("p.record"), run.path], [t("p.started"), run.started || DASH], [t("p.seconds"), short(run.seconds)],
    [t("p.hash"), run.hash || DASH], [t("p.weights"), run.weights.filter(Boolean).join(" · ") || DASH],
    [t("p.scene_list"), row.scenes.join(t("comma")) || DASH],
  ];
  const numbers = data.rows.columns.filter((name) => has(row, name) && !["error", "scenes", "verdict"].includes(name))
    .map((name) => [name, String(row[name])]);
  dialog.replaceChildren(
    el("div", { class: "bar" }, el("h2", { id: "origin-title" }, row.title),
      el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, t("p.close"))),
    el("p", {}, t("p.origin")),
    ...(row.error ? [el("p", { class: "note" }, row.error)] : []),
    el("h3", {}, t("p.command")), commandLine(run.command || DASH),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    folded(t("p.config"), pairs(settings(row.id, "config")), true),
    folded(t("p.environment"), pairs(settings(row.id, "environment")), true),
    folded(t("p.all_numbers"), pairs(numbers)),
    ...(run.notes.length ? [folded(t("p.notes"), el("ul", {}, ...run.notes.map((note) => el("li", {}, note))))] : []),
    ...(run.traceback ? [folded(t("p.trace"), el("pre", {}, run.traceback))] : []),
  );
  dialog.showModal();
}
