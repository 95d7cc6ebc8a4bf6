/* The three canvases: what each model found, and the difference. */

import { hueOf, state } from "./state.js";

const LOST = [230, 159, 0], GAINED = [204, 60, 140], BOTH = [86, 130, 180];

/* Masks are painted again when they change; a pointer that moves draws only the box again. */
const layers = [null, null, null];

export function repaint() {
  layers.fill(null);
  draw();
}

export function draw() {
  if (!state.picture) return;
  const { naturalWidth: width, naturalHeight: height } = state.picture;
  for (const index of [0, 1, 2]) {
    const canvas = byId(`view-${index}`);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.filter = index === 2 ? "grayscale(1) brightness(1.1) contrast(0.6)" : "none";
    pen.drawImage(state.picture, 0, 0);
    pen.filter = "none";
    layers[index] ??= index === 2 ? paintDifferences(width, height) : paintMasks(index, width, height);
    pen.drawImage(layers[index], 0, 0);
    drawPrompt(pen, Math.max(2, width / 250));
  }
}

function paintMasks(index, width, height) {
  const labels = new Uint16Array(width * height);
  const colours = [null, ...state.objects.map((object) => object.colour)];
  /* The right model found them. */
  if (state.everything && index === 1) {
    const { masks, labels: found } = state.everything;
    found.forEach((label, i) => label && (labels[i] = colours.length + label - 1));
    colours.push(...masks.map((_, i) => hueOf(i)));
  }
  state.objects.forEach((object, i) => eachPixel(object.masks[index], width, (at) => (labels[at] = i + 1)));
  return paintLayer(width, height, (i) => colours[labels[i]]);
}

function paintDifferences(width, height) {
  const labels = new Uint8Array(width * height);
  for (const { masks: [first, second] } of state.objects) {
    if (!first || !second) continue;
    eachPixel(first, width, (at) => (labels[at] = second.pixels[at] ? 3 : 1));
    eachPixel(second, width, (at) => first.pixels[at] || (labels[at] = 2));
  }
  const colours = [null, LOST, GAINED, BOTH];
  return paintLayer(width, height, (i) => colours[labels[i]]);
}

function eachPixel(mask, width, act) {
  if (!mask) return;
  for (let y = mask.top; y >= 0 && y <= mask.bottom; y++) {
    for (let at = y * width + mask.left; at <= y * width + mask.right; at++) if (mask.pixels[at]) act(at);
  }
}

function drawPrompt(pen, size) {
  const box = state.drag || state.selected.box;
  if (box) {
    pen.lineWidth = size;
    pen.strokeStyle = "#ffffff";
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([3 * size, 2 * size]);
    pen.strokeStyle = `rgb(${state.selected.colour})`;
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([]);
  }
  drawPoints(pen, state.selected.points, size);
}
