/* What is done with objects: prompt, take back, select, delete, save. */

import { render } from "./panel.js";
import { ask, readMask, runLatest } from "./server.js";
import { addObject, hasPrompt, state } from "./state.js";

/* Ask both models for the masks of an object; a newer prompt of the same object comes first. */
export function segment(object) {
  object.run ??= runLatest((signal) => segmentNow(object, signal));
  return object.run();
}

async function segmentNow(object, signal) {
  if (!hasPrompt(object)) Object.assign(object, { masks: [null, null], answer: null });
  render();
  if (!hasPrompt(object)) return;
  showMessage("Segmenting …");
  const models = [0, 1].map((index) => byId(`model-${index}`).value);
  const body = JSON.stringify({ models, image: state.image, box: object.box, points: object.points, mask: object.choice });
  const answer = await ask("/api/segment", { body, signal });
  const masks = await Promise.all(answer.results.map((result) => readMask(result.mask)));
  /* Meanwhile a newer prompt may have been given, or the object deleted. */
  if (signal.aborted || !state.objects.includes(object)) return;
  Object.assign(object, { masks, answer });
  render();
  showMessage("");
}

/* After another model was chosen; one after the other, because the server's queue is short. */
export async function segmentAll() {
  for (const object of state.objects) Object.assign(object, { masks: [null, null], answer: null });
  render();
  for (const object of [...state.objects]) if (hasPrompt(object)) await segment(object);
}

/* A prompt replaces the one before, to which Undo returns. */
export function change(object, next) {
  const { box, points, choice } = object;
  object.history.push({ box, points, choice });
  Object.assign(object, next);
  return segment(object);
}

export const addPoint = ([x, y], label) => change(state.selected, { points: [...state.selected.points, [x, y, label]] });
export const clear = () => hasPrompt(state.selected) && change(state.selected, { box: null, points: [] });

export function undo() {
  const { selected } = state;
  if (!selected?.history.length) return;
  Object.assign(selected, selected.history.pop());
  segment(selected);
}

export function startObject() {
  if (!hasPrompt(state.selected)) return;
  try {
    const { number } = addObject();
    render();
    showMessage(`Object ${number}: click on it, or drag a box around it.`);
  } catch (error) {
    showMessage(error.message, true);
  }
}

export function select(object) {
  state.selected = object;
  render();
}

export function remove(object) {
  const place = state.objects.indexOf(object);
  state.objects.splice(place, 1);
  if (state.selected === object) state.selected = state.objects[Math.max(0, place - 1)] ?? addObject();
  render();
}

/* Clicks on the list of objects. */
export function pressChip(event) {
  const button = event.target.closest("button");
  const object = button && state.objects.find((one) => one.number === Number(button.dataset.number));
  if (!object) return;
  (button.dataset.act === "drop" ? remove : select)(object);
  /* The list is new; keys go on where they were. */
  byId("objects").querySelector("[aria-pressed=true]").focus();
}

export function saveSelected() {
  saveMask(state.selected.masks[1].pixels, state.picture.naturalWidth, state.picture.naturalHeight);
}

/* The right model's masks of all objects, in COCO's form. */
export function saveAll() {
  const { naturalWidth: width, naturalHeight: height } = state.picture;
  const found = state.objects.filter((object) => object.masks[1]);
  const records = found.map(({ masks, answer }) => {
    const { model, pixels, predicted_iou } = answer.results[1];
    return { segmentation: encodeRuns(masks[1].pixels, width, height), area: pixels, predicted_iou, model, image: state.image };
  });
  offerFile(new Blob([JSON.stringify(records)], { type: "application/json" }), "masks.json");
}
