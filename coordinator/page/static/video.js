// The frames that the stages hold, and what the top stage makes of its own. The coordinator takes these pictures only
// while they are asked for, and they are asked for only while they can be seen.
import { figure, put, whole } from "./text.js";

const EVERY = 250, TIMEOUT = 5000; // ms
const ROWS = 2; // slots of a table: two tables beside each other take less room than one
const section = document.querySelector("section.video"), tables = section.querySelector(".tables");
const COLUMNS = { target: "its target", output: "its output" };
let offered = false, visible = false, shown = "", built = "";

new IntersectionObserver((entries) => { visible = entries.at(-1).isIntersecting; }).observe(section);

export function showVideo(state) {
  offered = state.video;
  section.hidden = !offered;
}

async function ask() {
  try {
    if (!offered || !visible || document.hidden) return;
    const answer = await fetch(`api/frames?shown=${shown}`, { signal: AbortSignal.timeout(TIMEOUT) });
    if (answer.status === 200) show(await answer.json());
  } catch {
    // api/state says whether the coordinator is gone
  } finally {
    setTimeout(ask, EVERY);
  }
}

function show(preview) {
  window.seen = preview; // for tests and debugging
  shown = preview.tick;
  const pictured = Object.keys(COLUMNS).filter((name) => name in preview.answers[0]);
  const shape = [preview.width, preview.height, preview.stages.length, preview.answers.length, pictured].join();
  if (shape !== built) build(preview, pictured);
  built = shape;
  put("seen", whole(preview.tick));
  preview.stages.forEach(({ frame, pictures }, stage) => {
    put(`held_${stage}`, `frame ${whole(frame)}`, tables);
    pictures.forEach((picture, slot) => draw(`${slot}-${stage}`, picture, preview));
  });
  preview.answers.forEach((answer, slot) => {
    for (const name of pictured) draw(`${slot}-${name}`, answer[name], preview);
    if ("says" in answer) say(tables.querySelector(`[data-answer="${slot}"]`), answer);
  });
}

function say(cell, { says, confidence, truth, right }) {
  cell.className = right === null ? "" : right ? "right" : "wrong";
  put("says", says, cell);
  put("confidence", confidence === null ? "" : ` ${figure(100 * confidence, 3)} %`, cell);
  put("truth", truth === null ? "" : `is ${truth}`, cell);
}

// Draws a picture, base64 of its pixels' one or three bytes, onto its canvas; without a picture clears it.
function draw(name, picture, { width, height }) {
  const onto = tables.querySelector(`[data-picture="${name}"]`).getContext("2d");
  if (picture === null) {
    onto.clearRect(0, 0, width, height);
    return;
  }
  const bytes = atob(picture), channels = bytes.length / (width * height);
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at += 1) {
    for (let c = 0; c < 3; c += 1) pixels.data[4 * at + c] = bytes.charCodeAt(at * channels + Math.min(c, channels - 1));
    pixels.data[4 * at + 3] = 255;
  }
  onto.putImageData(pixels, 0, 0);
}

function build({ width, height, stages, answers }, pictured) {
  const columns = [...stages.keys(), ...pictured];
  const titles = stages.map((_, stage) => headed(`stage ${stage}`, `held_${stage}`));
  titles.push(...(pictured.length ? pictured.map((name) => headed(COLUMNS[name], name)) : [headed("top stage says", "none")]));
  const rows = answers.map((_, slot) => {
    const pictures = columns.map((name) => element("td", canvas(`${slot}-${name}`, width, height)));
    return element("tr", element("th", `slot ${slot}`), ...pictures, ...(pictured.length ? [] : [answerCell(slot)]));
  });
  const made = [];
  for (let at = 0; at < rows.length; at += ROWS) {
    const head = element("tr", element("th"), ...titles.map((title) => title.cloneNode(true)));
    made.push(element("table", head, ...rows.slice(at, at + ROWS)));
  }
  tables.replaceChildren(...made);
}

function canvas(name, width, height) {
  const made = Object.assign(document.createElement("canvas"), { width, height });
  made.dataset.picture = name;
  return made;
}

function headed(title, name) {
  return element("th", element("b", title), figured("span", name));
}

function answerCell(slot) {
  const truth = element("div", figured("span", "truth"));
  truth.className = "quiet";
  const says = figured("span", "says");
  says.className = "says";
  const cell = element("td", says, figured("span", "confidence"), truth);
  cell.dataset.answer = slot;
  return cell;
}

function figured(tag, name) {
  const made = element(tag);
  made.dataset.figure = name;
  return made;
}

function element(tag, ...inside) {
  const made = document.createElement(tag);
  made.append(...inside);
  return made;
}

ask();
