// What the page opens with: one sentence for the shown group, and the row behind it. Then what stands apart from the groups.
function scrolled(label, ...content) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", {}, ...content));
}

function drawAnswer() {
  const { text, answer } = groupOf(state.group), words = text[state.lang].answer;
  $("answer").classList.toggle("none", !words);
  $("answer-words").textContent = words;
  const headings = COLUMNS.map((column) => el("th", { scope: "col", class: column.text || column.key === "label" ? "text" : null },
    column.title ? column.title() : t(column.key)));
  $("answer-row").replaceChildren(...(answer === null ? [] : [el("p", { class: "small" }, t("p.answer_row")),
    scrolled(t("p.answer"), el("thead", {}, el("tr", {}, ...headings)), el("tbody", {}, line(rows[answer])))]));
}

function networkTable({ text, lines, ids }) {
  const { intro, headings } = text[state.lang];
  const cls = (i) => (i < 2 ? "text" : "value");
  const body = lines.map((cells, k) => el("tr", {}, ...cells.map((cell, i) => (i === 1
    ? el("td", { class: "text" }, originButton(rows[ids[k]], cell)) : el("td", { class: cls(i) }, cell)))));
  return [el("p", {}, intro), scrolled(t("networks"),
    el("thead", {}, el("tr", {}, ...headings.map((words, i) => el("th", { scope: "col", class: cls(i) }, words)))),
    el("tbody", {}, ...body))];
}

views.push(() => {
  drawAnswer();
  $("networks").hidden = $("networks-link").hidden = !data.networks.length;
  $("networks-tables").replaceChildren(...data.networks.flatMap(networkTable));
  $("refused").hidden = !data.refused.length;
  $("refused").querySelector("summary").textContent = t("refused_note", { n: data.refused.length });
  $("refused").querySelector("ul").replaceChildren(...data.refused.map(({ path, reason }) =>
    el("li", {}, `${path}${t("colon")}${reason}`)));
});
