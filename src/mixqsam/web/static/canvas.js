"use strict";
/* What our pages have in common: text for people, masks and points on a canvas. */

const byId = (name) => document.getElementById(name);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
const milliseconds = (seconds) => (seconds < 10 ? `${Math.round(seconds * 1000).toLocaleString("en")} ms` : `${seconds.toFixed(1)} s`);

function showMessage(text, isError = false) {
  byId("message").textContent = text;
  byId("message").classList.remove("busy");
  byId("message").classList.toggle("bad", isError);
}

/* A picture of half-transparent colours [r, g, b], or of none where `colourAt` gives null. */
function paintLayer(width, height, colourAt) {
  const layer = new OffscreenCanvas(width, height);
  const pen = layer.getContext("2d");
  const pixels = pen.createImageData(width, height);
  /* All bytes of a pixel at once; every browser's machine has the lowest byte first. */
  const whole = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < whole.length; i++) {
    const colour = colourAt(i);
    if (colour) whole[i] = (150 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0];
  }
  pen.putImageData(pixels, 0, 0);
  return layer;
}

/* Points [x, y, label]: green on the object, red beside it. */
function drawPoints(pen, points, size) {
  for (const [x, y, label] of points) {
    pen.beginPath();
    pen.arc(x, y, 2.2 * size, 0, 7);
    pen.fillStyle = label ? "#00a000" : "#c80000";
    pen.fill();
    pen.lineWidth = size / 2;
    pen.strokeStyle = "#ffffff";
    pen.stroke();
  }
}

function offerFile(content, name) {
  const address = URL.createObjectURL(content);
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  URL.revokeObjectURL(address);
}

/* Save a mask, one value a pixel, row by row, as a picture: white on black. */
async function saveMask(mask, width, height) {
  const layer = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  new Uint32Array(pixels.data.buffer).set(Array.from(mask, (one) => (one ? 0xffffffff : 0xff000000)));
  layer.getContext("2d").putImageData(pixels, 0, 0);
  offerFile(await layer.convertToBlob(), "mask.png");
}

/* COCO's run-length encoding, not compressed: lengths of runs of 0 and 1, column by column, the first of them of 0. */
function encodeRuns(mask, width, height) {
  const counts = [0];
  for (let i = 0, last = 0; i < width * height; i++) {
    const value = mask[(i % height) * width + Math.floor(i / height)] ? 1 : 0;
    if (value !== last) counts.push(0);
    counts[counts.length - 1]++;
    last = value;
  }
  return { size: [height, width], counts };
}

function saveRuns(mask, width, height) {
  offerFile(new Blob([JSON.stringify(encodeRuns(mask, width, height))], { type: "application/json" }), "mask.json");
}

/* The place of an event in a canvas's own pixels. */
function pixelAt(event) {
  const canvas = event.currentTarget;
  const area = canvas.getBoundingClientRect();
  const x = ((event.clientX - area.left) / area.width) * canvas.width;
  const y = ((event.clientY - area.top) / area.height) * canvas.height;
  return [Math.min(Math.max(x, 0), canvas.width), Math.min(Math.max(y, 0), canvas.height)];
}

/* One of several buttons is chosen. */
function chooseButton(buttons, chosen) {
  for (const one of buttons) one.setAttribute("aria-checked", one === chosen);
}

/* Files that are dropped on an element. */
function takeDrops(element, take) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    element.addEventListener(kind, (event) => {
      event.preventDefault();
      element.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  }
}
