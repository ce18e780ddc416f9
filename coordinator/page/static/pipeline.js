// The stages and the frames that they hold. Only completed ticks are shown: between two answers the ticks from one to
// the other are played back, as many of them as the eye can follow.
import { figure, put, whole } from "./text.js";

const PICTURE = 300; // ms
const still = matchMedia("(prefers-reduced-motion: reduce)");
const play = { from: null, to: null, began: 0, lasts: 1000, drawn: null };
let latest = null, boxes = [];

export function showPipeline(state) {
  latest = state;
  const { tick, stages } = state.pipeline;
  if (boxes.length !== stages.length) build(stages.length);
  aim(tick);
  stages.forEach((stage, i) => {
    const box = boxes[i];
    put("blocks", stage.blocks.join(" · "), box);
    box.querySelector(".blocks").title = stage.blocks.join(", ");
    put("mismatch", `${stage.mismatch} frames mismatch`, box);
    put("skips", stage.skips.length ? `also takes the output of stage ${stage.skips.join(", ")}` : "", box);
  });
  for (const stage of state.status.stages) showStage(boxes[stage.stage], stage);
  const rate = state.ticks_per_second;
  const every = Math.max(1, Math.round((rate ?? 0) * PICTURE / 1000));
  put("pace", every > 1 ? `about one in ${every} ticks is shown` : "every tick is shown");
}

function aim(tick) {
  const now = performance.now();
  if (play.to === null || tick < play.to) Object.assign(play, { from: tick, to: tick, began: now });
  else if (tick > play.to) {
    const lasts = Math.min(5000, Math.max(PICTURE, now - play.began));
    Object.assign(play, { from: play.drawn ?? tick, to: tick, began: now, lasts });
  }
}

function draw() {
  if (latest === null) return;
  const share = Math.min(1, (performance.now() - play.began) / play.lasts);
  const tick = Math.round(play.from + share * (play.to - play.from));
  if (tick === play.drawn && boxes[0]?.dataset.drawn) return;
  play.drawn = tick;
  put("drawn", tick < 0 ? "–" : whole(tick));
  const { tick: known, origin, stages } = latest.pipeline;
  const at = (frame) => (frame === null || frame - (known - tick) < origin ? null : frame - (known - tick));
  stages.forEach((stage, i) => {
    boxes[i].dataset.drawn = tick;
    chip(boxes[i].querySelector(".frame .chip"), "▸ frame", at(stage.frame), -40);
    chip(boxes[i].querySelector(".gradient .chip"), "◂ gradient of", at(stage.gradient), 40);
  });
}

function chip(place, label, frame, from) {
  const text = frame === null ? "–" : `${label} ${whole(frame)}`;
  if (place.textContent === text) return;
  place.textContent = text;
  place.classList.toggle("none", frame === null);
  place.style.setProperty("--hue", Math.round(((frame ?? 0) * 137.508) % 360)); // neighbours differ
  if (!still.matches) {
    place.animate([{ transform: `translateX(${from}px)`, opacity: 0.3 }, { transform: "none", opacity: 1 }], { duration: PICTURE - 60, easing: "ease-out" });
  }
}

function showStage(box, stage) {
  const between = stage.receive_wait_ms + stage.send_wait_ms;
  const whole_tick = Math.max(stage.tick_ms, 1e-9);
  const parts = { compute: stage.compute_ms, between, data: stage.data_wait_ms };
  for (const [name, ms] of Object.entries(parts)) {
    box.querySelector(`.bar .${name}`).style.width = `${Math.min(100, (100 * ms) / whole_tick)}%`;
  }
  put("compute", `${figure(stage.compute_ms, 3)} ms`, box);
  put("wait", `${figure(between + stage.data_wait_ms, 3)} ms`, box);
  put("tick_ms", `${figure(stage.tick_ms, 3)} ms`, box);
  put("gated", stage.gated_share === null ? "–" : `${figure(100 * stage.gated_share, 3)} %`, box);
  put("norm", figure(stage.gradient_norm, 3), box);
  put("rate", figure(stage.learning_rate, 3), box);
  put("memory", `${figure(stage.peak_memory_mib, 4)} MiB`, box);
}

const ROWS = { tick_ms: "tick", compute: "compute", wait: "wait", gated: "gated", norm: "gradient norm", rate: "learning rate", memory: "peak memory" };

function build(count) {
  boxes = Array.from({ length: count }, (_, stage) => {
    const box = element("article", "stage");
    box.dataset.stage = stage;
    const head = element("h3", "", `stage ${stage}`);
    head.append(figured("span", "mismatch", "quiet"));
    const bar = element("div", "bar");
    bar.append(...["compute", "between", "data"].map((name) => element("i", name)));
    const rows = element("dl", "");
    for (const [name, label] of Object.entries(ROWS)) rows.append(element("dt", "", label), figured("dd", name, ""));
    box.append(head, figured("div", "blocks", "blocks quiet"), figured("div", "skips", "skips quiet"), slot("frame"), slot("gradient"), bar, rows);
    return box;
  });
  document.querySelector(".pipeline").replaceChildren(...boxes);
}

function slot(kind) {
  const place = element("div", `slot ${kind}`);
  place.append(element("div", "chip none", "–"));
  return place;
}

function figured(tag, name, kind) {
  const made = element(tag, kind);
  made.dataset.figure = name;
  return made;
}

function element(tag, kind, text = "") {
  return Object.assign(document.createElement(tag), { className: kind, textContent: text });
}

setInterval(draw, PICTURE);
