// What each stage of each replica is doing, if there are several replicas.
import { figure, put, whole } from "./text.js";

const section = document.querySelector("section.replicas"), table = section.querySelector("table");

export function showReplicas({ replicas, readers }) {
  section.hidden = replicas.length < 2;
  if (section.hidden) return;
  if (table.rows.length !== replicas.length + 1) build(replicas, readers);
  replicas.forEach((row, replica) => row.forEach((cell, stage) => showCell(table.rows[replica + 1].cells[stage + 1], cell)));
}

function showCell(place, { state, tick, waits, waits_for: reason }) {
  place.dataset.state = state;
  put("doing", state, place);
  put("waits", waits === null ? "" : `waits ${figure(100 * waits, 2)} %${reason === null ? "" : ` for ${reason}`}`, place);
  place.title = tick === null ? "" : `at tick ${whole(tick)}`;
}

function build(replicas, readers) {
  const head = row("", replicas[0].map((_, stage) => element("th", `stage ${stage}`)));
  table.replaceChildren(head, ...replicas.map((stages, replica) => {
    const reader = readers ? `fed by reader ${Math.floor((replica * readers) / replicas.length)}` : "";
    return row(`replica ${replica}`, stages.map(cell), reader);
  }));
}

function row(name, cells, note = "") {
  const head = element("th", name), made = document.createElement("tr");
  if (note) head.append(element("small", note));
  made.append(head, ...cells);
  return made;
}

function cell() {
  const made = element("td", "");
  for (const name of ["doing", "waits"]) made.append(Object.assign(element("span", ""), { className: name }));
  for (const part of made.children) part.dataset.figure = part.className;
  return made;
}

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}
