/* Pointer and keys. */

import { forgetEverything, pick } from "./everything.js";
import { addPoint, change, clear, remove, startObject, undo } from "./objects.js";
import { state } from "./state.js";
import { draw } from "./views.js";

const modes = document.querySelectorAll(".mode");

function boxBetween([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

/* A press that moves draws a box; one that does not is a point, or on the right takes a mask of everything. */
export function listen(canvas) {
  const take = canvas.id === "view-1" ? pick : () => false;
  let start = null;
  const isDrag = (box) => Math.max(box[2] - box[0], box[3] - box[1]) > (6 * canvas.width) / canvas.getBoundingClientRect().width;
  canvas.addEventListener("pointerdown", (event) => {
    if (!state.picture) return;
    canvas.setPointerCapture(event.pointerId);
    start = pixelAt(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const box = boxBetween(start, pixelAt(event));
    state.drag = isDrag(box) ? box : null;
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const place = pixelAt(event);
    const box = boxBetween(start, place);
    start = state.drag = null;
    if (isDrag(box)) change(state.selected, { box });
    else if (event.button === 2 || !take(place)) addPoint(place, event.button === 2 ? 0 : state.label);
  });
  canvas.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    /* Some systems ask for the menu while the button or finger is down, others afterwards. */
    if (start) addPoint(pixelAt(event), 0);
    start = state.drag = null;
  });
  canvas.addEventListener("pointercancel", () => {
    start = state.drag = null;
    draw();
  });
}

export function chooseLabel(label) {
  state.label = label;
  chooseButton(modes, [...modes].find((button) => Number(button.dataset.label) === label));
}

export function listenToModes() {
  for (const button of modes) button.addEventListener("click", () => chooseLabel(Number(button.dataset.label)));
}

const leave = () => (state.everything ? forgetEverything() : clear());
const KEYS = { backspace: undo, escape: leave, delete: () => remove(state.selected), b: () => chooseLabel(0), o: () => chooseLabel(1), n: startObject };

export function pressKey(event) {
  if (event.altKey || event.metaKey || event.target.closest("input, select")) return;
  const key = event.key.toLowerCase();
  const act = event.ctrlKey ? (key === "z" ? undo : null) : KEYS[key];
  if (!act) return;
  event.preventDefault();
  act();
}
