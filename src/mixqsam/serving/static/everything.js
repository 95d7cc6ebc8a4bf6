/* Everything in the picture, found by the right model: each mask can become an object. */

import { change } from "./objects.js";
import { render } from "./panel.js";
import { follow } from "./server.js";
import { addObject, state } from "./state.js";

/* Small models are sure of few masks: where there is none, the next level is tried. */
const LEVELS = ["sure", "likely", "unsure"];

let running = null;

function stop() {
  running?.abort();
  running = null;
  byId("everything").textContent = "Everything";
}

/* Of another model or picture. */
export function forgetEverything() {
  stop();
  state.everything = null;
  render();
}

/* Find everything, stop finding it, or hide it. */
export function toggleEverything() {
  if (!running) return state.everything ? forgetEverything() : findEverything();
  stop();
  showMessage("");
}

async function findEverything() {
  const own = (running = new AbortController());
  byId("everything").textContent = "Stop";
  try {
    const { level, masks, found } = await find(own.signal);
    if (masks.length) show(masks);
    showMessage(describe(masks.length, found, level));
  } catch (error) {
    if (error.name !== "AbortError") showMessage(error.message, true);
  } finally {
    if (running === own) stop();
  }
}

async function find(signal) {
  const { image } = state;
  const model = byId("model-1").value;
  const side = Number(byId("side").value);
  for (let place = LEVELS.indexOf(byId("sureness").value); ; place++) {
    const level = LEVELS[place];
    const body = JSON.stringify({ model, image, side, sureness: level });
    showStep(model, "");
    const answer = await follow("/api/everything", { body, signal }, ({ done, total }) => showStep(model, ` ${done} of ${total} points`));
    if (answer.masks.length || place + 1 === LEVELS.length) return { level, ...answer };
  }
}

function showStep(model, progress) {
  showMessage(`${model} segments everything …${progress}`);
  byId("message").classList.add("busy");
}

function describe(shown, found, level) {
  if (!shown) return "Nothing was found. Try more points, or click on something.";
  const less = level === byId("sureness").value ? "" : " The model is not as sure of them as was asked.";
  const most = shown < found ? ` (the surest of ${found})` : "";
  return `${shown} mask${shown === 1 ? "" : "s"}${most} on the right.${less} Click on one to make it an object; press the button again to hide them.`;
}

function show(masks) {
  state.everything = { masks, labels: null };
  label();
}

/* Smaller masks lie above larger ones. */
function label() {
  const { masks } = state.everything;
  const { naturalWidth: width, naturalHeight: height } = state.picture;
  const labels = new Uint16Array(width * height);
  const order = [...masks.keys()].filter((i) => !masks[i].taken).sort((a, b) => masks[b].area - masks[a].area);
  for (const i of order) paintRuns(labels, masks[i].segmentation, i + 1);
  state.everything.labels = labels;
  render();
}

/* COCO's runs, column by column, the first of background. */
function paintRuns(labels, { size: [height, width], counts }, value) {
  let at = 0;
  for (const [place, run] of counts.entries()) {
    if (place % 2) for (let i = at; i < at + run; i++) labels[(i % height) * width + Math.floor(i / height)] = value;
    at += run;
  }
}

/* Make the mask at a place an object, by the prompt that gave it; false where there is none. */
export function pick([x, y]) {
  if (!state.everything) return false;
  const { naturalWidth: width, naturalHeight: height } = state.picture;
  const place = Math.min(height - 1, Math.floor(y)) * width + Math.min(width - 1, Math.floor(x));
  const mask = state.everything.masks[state.everything.labels[place] - 1];
  if (!mask) return false;
  try {
    const object = addObject();
    mask.taken = true;
    label();
    change(object, { points: [[...mask.point, 1]], choice: mask.choice });
  } catch (error) {
    showMessage(error.message, true);
  }
  return true;
}
