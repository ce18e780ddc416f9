// Polls the coordinator for the run's state twice a second, and shows it. The coordinator computes whatever it can.
import { drawChart } from "./chart.js";
import { showPipeline } from "./pipeline.js";
import { showReplicas } from "./replicas.js";
import { figure, put, whole } from "./text.js";
import { showVideo } from "./video.js";

const EVERY = 500, TIMEOUT = 5000; // ms
const OVER = { finished: "The run has finished", stopped: "The run was stopped", failed: "The run failed" };
const SHOWN = ["val_top1", "val_mse", "val_loss"]; // figures of evaluations in the charts of the training
let last = null, lastTime = null;

async function ask() {
  try {
    const answer = await fetch("api/state", { signal: AbortSignal.timeout(TIMEOUT) });
    if (!answer.ok) throw new Error(answer.status);
    last = await answer.json();
    lastTime = new Date();
  } catch {
    gone();
    return;
  } finally {
    setTimeout(ask, EVERY);
  }
  show(last);
}

function show(told) {
  const { status, numbers } = told;
  window.told = told; // for tests and debugging
  document.title = `${status.state} ${percent(status)} · ${status.name}`;
  document.body.classList.toggle("training", numbers.sideways_training === 1);
  say(null);
  for (const name of ["name", "message", "algorithm"]) put(name, status[name]);
  for (const name of ["tick", "planned"]) put(name, whole(status[name]));
  for (const name of ["loss", "accuracy"]) put(name, figure(status[name], 4));
  put("learning_rate", figure(status.stages.at(-1)?.learning_rate, 4)); // of the top stage, the only one without a mismatch
  put("directory", status.owner.directory);
  showState(status.state);
  showNumbers(told);
  showPipeline(told);
  showReplicas(told);
  showVideo(told);
  const restarts = told.restarts.map((restart) => restart.tick);
  const { loss, accuracy, val_top1: top1, val_mse, val_loss } = told.curves;
  const error = val_loss ?? val_mse;
  drawChart("loss", loss, error, restarts, status.planned);
  drawChart("accuracy", accuracy, top1, restarts, status.planned);
  const scores = SHOWN.includes(told.score) ? [] : told.curves[told.score] ?? []; // those of charts of their own
  put("score_title", scoreName(told.score));
  drawChart("score", [], scores, restarts, status.planned);
  const there = { accuracy: accuracy.length + top1.length, val_top1: top1.length, val_loss: error.length, score: scores.length, restarts: restarts.length };
  for (const part of document.querySelectorAll("[data-for]")) part.hidden = !there[part.dataset.for];
  list("restarts", told.restarts.map((r) => `restart ${r.restarts}: resumed at tick ${whole(r.tick)}, ${figure(r.recovery_seconds, 3)} s after its last report`));
  list("warnings", told.warnings);
  if (status.state === "restarting") say(`A process was lost, and the run restarts. ${status.message}`);
  if (status.state in OVER) say(`${OVER[status.state]} at tick ${whole(status.tick)}. ${status.message}`);
}

function showNumbers({ status, numbers, score, ticks_per_second: ticks, frames_per_second: frames }) {
  const training = numbers.sideways_training === 1;
  put("ticks_per_second", figure(training ? ticks : null, 3));
  put("frames_per_second", figure(training ? frames : null, 3));
  put("frames", whole(numbers['sideways_frames_total{phase="training"}']));
  put("checkpoints", whole(numbers.sideways_checkpoints_total));
  put("restarts", whole(numbers.sideways_restarts_total));
  put("score_name", score in status.evaluation ? scoreName(score) : "validation");
  put("score", figure(status.evaluation[score], 4));
  document.querySelector("progress").value = status.planned ? status.tick / status.planned : 0;
  put("left", training && ticks ? `${percent(status)}, ${duration((status.planned - status.tick) / ticks)} of training left` : percent(status));
}

function scoreName(score) {
  return { val_top1: "validation top-1", val_mse: "validation error", val_map: "validation mAP" }[score] ?? score.replace("val_", "validation ").replaceAll("_", " ");
}

function showState(state) {
  put("state", state);
  document.querySelector(".state").dataset.state = state;
}

function gone() {
  document.body.classList.remove("training");
  if (last !== null && last.status.state in OVER && last.status.state !== "failed") {
    say(`${OVER[last.status.state]} at tick ${whole(last.status.tick)}, and its coordinator has ended.`);
    return;
  }
  showState("gone");
  const since = lastTime ? ` since ${lastTime.toLocaleTimeString()}` : "";
  say(`The coordinator has not answered${since}: the run has ended or lost a process. If it is restarted, this page shows it again.`);
}

function say(text) {
  const place = document.querySelector("p.gone");
  place.hidden = text === null;
  place.textContent = text ?? "";
}

function list(name, texts) {
  const place = document.querySelector(`[data-list="${name}"]`);
  if (place.children.length === texts.length && [...place.children].every((item, i) => item.textContent === texts[i])) return;
  place.replaceChildren(...texts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

function percent({ tick, planned }) {
  return planned ? `${Math.floor((100 * tick) / planned)} %` : "";
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

addEventListener("resize", () => last && show(last));
ask();
