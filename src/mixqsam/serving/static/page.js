"use strict";
/* The page of `mixqsam serve`: one image, one prompt (a box and points), two models, their difference; and a budget
   whose allocation is solved again while its sliders move. */

const state = { models: [], limits: {}, wanted: null, image: null, picture: null, label: 1, box: null, points: [], history: [], drag: null, masks: [null, null] };
const colours = { lost: [230, 159, 0], gained: [204, 60, 140], both: [86, 130, 180], mask: [0, 114, 178] };

function giga(value) {
  return (value / 1e9).toLocaleString("en-US", { maximumSignificantDigits: value < 1e12 ? 3 : 4 });
}

async function ask(path, { body, signal } = {}) {
  const options = body === undefined ? { signal } : { method: "POST", body, signal, headers: { "x-mixqsam": "1" } };
  const answer = await fetch(path, options);
  const busy = "The server is busy; try again in a few seconds.";
  const value = await answer.json().catch(() => ({ error: answer.status === 503 ? busy : `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Error(value.error);
  return value;
}

/* Abort the running request when a newer one of its kind starts. */
function runLatest(action) {
  let running = null;
  return async () => {
    if (running) running.abort();
    const controller = (running = new AbortController());
    try {
      await action(controller.signal);
    } catch (error) {
      if (error.name !== "AbortError") showMessage(error.message, true);
    }
  };
}

/* --- images --------------------------------------------------------------------------------------------------- */

async function choose(name) {
  const picture = new Image();
  state.wanted = name;
  picture.src = `/api/images/${encodeURIComponent(name)}`;
  await picture.decode();
  /* Another image was chosen while this one was on its way. */
  if (state.wanted !== name) return;
  Object.assign(state, { image: name, picture, box: null, points: [], history: [], masks: [null, null] });
  for (const sample of document.querySelectorAll(".sample")) sample.setAttribute("aria-pressed", sample.dataset.name === name);
  forgetMasks();
  showMessage("Click on something, or drag a box around it.");
}

function forgetMasks() {
  state.masks = [null, null];
  byId("figures").hidden = true;
  byId("agreement").textContent = "";
  draw();
}

async function upload(file) {
  if (!file) return;
  if (file.size > state.limits.upload) return showMessage(`${file.name} is too large; at most ${state.limits.upload / 1e6} MB can be sent.`, true);
  showMessage("Sending …");
  try {
    const { image } = await ask("/api/images", { body: file });
    showSamples([image]);
    await choose(image);
  } catch (error) {
    showMessage(error.message, true);
  }
}

function showSamples(names) {
  for (const name of names) {
    const button = document.createElement("button");
    button.className = "sample";
    button.type = "button";
    button.dataset.name = name;
    button.setAttribute("aria-label", `Image ${name}`);
    const image = document.createElement("img");
    image.src = `/api/images/${encodeURIComponent(name)}?small`;
    image.alt = name;
    button.append(image);
    button.addEventListener("click", () => choose(name).catch((error) => showMessage(error.message, true)));
    byId("samples").append(button);
  }
}

/* --- drawing -------------------------------------------------------------------------------------------------- */

function draw() {
  byId("undo").disabled = !state.history.length;
  byId("clear").disabled = !state.box && !state.points.length;
  byId("save").disabled = byId("save-runs").disabled = !state.masks[1];
  if (!state.picture) return;
  const { naturalWidth: width, naturalHeight: height } = state.picture;
  for (const index of [0, 1, 2]) {
    const canvas = byId(`view-${index}`);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.filter = index === 2 ? "grayscale(1) brightness(1.1) contrast(0.6)" : "none";
    pen.drawImage(state.picture, 0, 0);
    pen.filter = "none";
    const layer = index === 2 ? differenceLayer(width, height) : maskLayer(index, width, height);
    if (layer) pen.drawImage(layer, 0, 0);
    drawPrompt(pen, Math.max(2, width / 250));
  }
}

function maskLayer(index, width, height) {
  const mask = state.masks[index];
  return mask && paintLayer(width, height, (i) => (mask[i] ? colours.mask : null));
}

function differenceLayer(width, height) {
  const [first, second] = state.masks;
  if (!first || !second) return null;
  return paintLayer(width, height, (i) => (first[i] ? (second[i] ? colours.both : colours.lost) : second[i] ? colours.gained : null));
}

function drawPrompt(pen, size) {
  const box = state.drag || state.box;
  if (box) {
    pen.lineWidth = size;
    pen.strokeStyle = "#ffffff";
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([3 * size, 2 * size]);
    pen.strokeStyle = "#0072b2";
    pen.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.setLineDash([]);
  }
  drawPoints(pen, state.points, size);
}

async function pixelsOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const layer = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const pen = layer.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const data = pen.getImageData(0, 0, layer.width, layer.height).data;
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => (data[4 * i] > 127 ? 1 : 0));
}

/* --- prompts -------------------------------------------------------------------------------------------------- */

/* A prompt replaces the one before, to which Undo returns. */
function change(next) {
  state.history.push({ box: state.box, points: state.points });
  Object.assign(state, next);
  segment();
}

const addPoint = ([x, y], label) => change({ points: [...state.points, [x, y, label]] });
const clear = () => (state.box || state.points.length) && change({ box: null, points: [] });

function undo() {
  if (!state.history.length) return;
  Object.assign(state, state.history.pop());
  segment();
}

function boxBetween([x0, y0], [x1, y1]) {
  return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
}

/* A press that moves draws a box; one that does not is a point. */
function listen(canvas) {
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
    const box = boxBetween(start, pixelAt(event));
    start = state.drag = null;
    if (isDrag(box)) change({ box });
    else addPoint(pixelAt(event), event.button === 2 ? 0 : state.label);
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

const modes = document.querySelectorAll(".mode");

function chooseLabel(label) {
  state.label = label;
  chooseButton(modes, [...modes].find((button) => Number(button.dataset.label) === label));
}

function pressKey(event) {
  if (event.altKey || event.metaKey || event.target.closest("input, select")) return;
  const key = event.key.toLowerCase();
  if (key === "backspace" || (key === "z" && event.ctrlKey)) undo();
  else if (key === "escape") clear();
  else if (key === "b" && !event.ctrlKey) chooseLabel(0);
  else if (key === "o" && !event.ctrlKey) chooseLabel(1);
  else return;
  event.preventDefault();
}

const segment = runLatest(async (signal) => {
  if (!state.image || (!state.box && !state.points.length)) return forgetMasks();
  draw();
  showMessage("Segmenting …");
  const models = [0, 1].map((index) => byId(`model-${index}`).value);
  const body = JSON.stringify({ models, image: state.image, box: state.box, points: state.points, mask: Number(byId("mask").value) });
  const answer = await ask("/api/segment", { body, signal });
  const masks = await Promise.all(answer.results.map((result) => pixelsOf(result.mask)));
  if (signal.aborted) return;
  state.masks = masks;
  draw();
  showFigures(answer);
  showMessage("");
});

function showFigures({ results, difference }) {
  const rows = results.map((result) => {
    const model = state.models.find((candidate) => candidate.name === result.model);
    const encoded = milliseconds(result.encode_seconds) + (result.encoded_now ? "" : " (cached)");
    return [result.model, model.size ? megabytes(model.size) : "–", encoded, milliseconds(result.prompt_seconds), result.predicted_iou.toFixed(3), result.pixels.toLocaleString("en")];
  });
  const body = document.createElement("tbody");
  for (const cells of rows) for (const [index, cell] of cells.entries()) (index ? body.lastChild : body.insertRow()).insertCell().textContent = cell;
  byId("figures").tBodies[0].replaceWith(body);
  byId("figures").hidden = false;
  const counts = [difference.only_first, difference.only_second].map((count) => count.toLocaleString("en"));
  byId("agreement").textContent = `The masks’ IoU is ${difference.iou.toFixed(3)}: ${counts[0]} pixels are only in the left one, ${counts[1]} only in the right one.`;
}

/* --- budget --------------------------------------------------------------------------------------------------- */

let range = null;
const rightModel = () => byId("model-1").value;
/* Sliders are logarithmic: 0 … 1000 from the lowest to the highest value. */
const valueOf = (name) => range[name].low * (range[name].high / range[name].low) ** (byId(name).value / 1000);
const sliderOf = (name, value) => (1000 * Math.log(value / range[name].low)) / Math.log(range[name].high / range[name].low);

function showBudget() {
  byId("size-text").textContent = megabytes(valueOf("size"));
  byId("bitops-text").textContent = `${giga(valueOf("bitops"))} G`;
}

const openBudget = runLatest(async (signal) => {
  const model = state.models.find((candidate) => candidate.name === rightModel());
  byId("budget").hidden = !model.analysed;
  if (!model.analysed) return;
  range = await ask("/api/allocate", { body: JSON.stringify({ model: model.name }), signal });
  /* Slightly above the model's own costs, so that the model itself fits the budget. */
  for (const name of ["size", "bitops"]) byId(name).value = Math.ceil(sliderOf(name, range[name].now));
  showBudget();
  solve();
});

const solve = runLatest(async (signal) => {
  byId("solved").textContent = "Solving …";
  const body = JSON.stringify({ model: rightModel(), size: valueOf("size"), bitops: valueOf("bitops"), tied: byId("tied").checked });
  let allocation;
  try {
    allocation = await ask("/api/allocate", { body, signal });
  } catch (error) {
    if (error.name !== "AbortError") byId("solved").textContent = error.message;
    return;
  }
  const uniform = allocation.uniform ? `the largest uniform model within the budget is ${allocation.uniform}` : "no uniform model fits";
  const proof = allocation.gap ? `within ${(100 * allocation.gap).toFixed(2)}% of the optimum` : "proven optimal";
  byId("solved").textContent = `${megabytes(allocation.size)}, ${giga(allocation.bitops)} GBitOps, ${allocation.mean_weight_bits.toFixed(2)} bits per weight; ${uniform}; ${proof} in ${milliseconds(allocation.seconds)}.`;
  byId("network").innerHTML = allocation.picture;
  byId("command").textContent = allocation.command;
});

/* --- start ---------------------------------------------------------------------------------------------------- */

function nameViews() {
  for (const index of [0, 1]) byId(`name-${index}`).textContent = byId(`model-${index}`).value;
}

async function start() {
  Object.assign(state, await ask("/api/state"));
  for (const index of [0, 1]) {
    const select = byId(`model-${index}`);
    for (const { name, size } of state.models) select.add(new Option(size ? `${name} (${megabytes(size)})` : name, name));
    select.selectedIndex = Math.min(index, state.models.length - 1);
    select.addEventListener("change", () => {
      nameViews();
      segment();
      if (index === 1) openBudget();
    });
    listen(byId(`view-${index}`));
  }
  nameViews();
  showSamples(state.samples);
  byId("legend").innerHTML = [2, 3, 4, 5, 6, 7, 8, 16].map((bits) => `<span><i class="b${bits}"></i>${bits} bits</span>`).join("");
  for (const button of modes) button.addEventListener("click", () => chooseLabel(Number(button.dataset.label)));
  byId("mask").addEventListener("change", segment);
  byId("undo").addEventListener("click", undo);
  byId("clear").addEventListener("click", clear);
  document.addEventListener("keydown", pressKey);
  for (const [id, save] of [["save", saveMask], ["save-runs", saveRuns]]) {
    byId(id).addEventListener("click", () => save(state.masks[1], state.picture.naturalWidth, state.picture.naturalHeight));
  }
  byId("file").addEventListener("change", (event) => upload(event.target.files[0]));
  takeDrops(byId("drop"), upload);
  let pause = null;
  for (const name of ["size", "bitops", "tied"]) {
    byId(name).addEventListener("input", () => {
      showBudget();
      clearTimeout(pause);
      pause = setTimeout(solve, 120);
    });
  }
  const describeUnit = (event) => {
    const unit = event.target.closest(".unit");
    if (unit) byId("told").textContent = unit.dataset.words;
  };
  byId("network").addEventListener("pointerover", describeUnit);
  byId("network").addEventListener("click", describeUnit);
  if (state.samples.length) await choose(state.samples[0]);
  else showMessage("Upload an image to begin.");
  openBudget();
}

start().catch((error) => showMessage(error.message, true));
