"use strict";
/* The page: a picture, points, and the mask that the worker answers with. */

const state = { settings: null, worker: null, device: "wasm", choices: 0, picture: null, points: [], label: 1, cross: null, mask: null, encoded: null, wanted: 0, running: false, seconds: {} };
const MASK = [0, 114, 178];

/* --- the worker ----------------------------------------------------------------------------------------------- */

/* A worker that answers questions; `ask` gives a promise of each answer. */
function openWorker(onProgress) {
  const worker = new Worker("worker.js", { type: "module" });
  const waiting = new Map();
  let count = 0;
  worker.addEventListener("message", ({ data }) => {
    if ("progress" in data) return onProgress(data.progress);
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error === undefined) resolve(data.value);
    else reject(new Error(data.error));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message || "The model's worker cannot be started."));
    waiting.clear();
  });
  return {
    ask: (kind, body, transfer = []) =>
      new Promise((resolve, reject) => {
        waiting.set(++count, { resolve, reject });
        worker.postMessage({ id: count, kind, body }, transfer);
      }),
    close: () => worker.terminate(),
  };
}

function showProgress(share) {
  const { encoder, decoder, runtimes } = state.settings;
  const total = encoder.bytes + decoder.bytes + runtimes[state.device].binary.bytes;
  byId("progress").value = share;
  byId("stage").textContent = share < 1 ? `Loading the model: ${megabytes(share * total)} of ${megabytes(total)}` : "Preparing the model …";
}

/* Load the model for a device; where the graphics card cannot, the processor does. */
async function load(device) {
  state.worker?.close();
  Object.assign(state, { device, worker: openWorker(showProgress), encoded: null });
  byId("device").value = device;
  byId("loading").hidden = false;
  showProgress(0);
  try {
    Object.assign(state.seconds, { threads: (await state.worker.ask("load", { settings: state.settings, device })).threads });
  } catch (error) {
    if (device === "wasm") throw error;
    return leaveGraphics(error);
  }
  byId("loading").hidden = true;
  state.encoded = encode();
  if (state.points.length) segment();
}

async function leaveGraphics(error) {
  await load("wasm").catch(showFailure);
  showMessage(`The graphics card cannot run the model (${error.message}). The processor does.`);
}

/* Whether there is a graphics card that computes; browsers may have a slow stand-in. */
async function hasGraphics() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/* --- the picture ---------------------------------------------------------------------------------------------- */

/* Show a picture, at most as large as the settings say, and encode it as soon as the model is loaded. */
async function choose(source, name) {
  const choice = ++state.choices;
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, { colorSpaceConversion: "none" });
  } catch {
    return showMessage(`${name} is not a picture that this browser can read.`, true);
  }
  /* Another picture was chosen while this one was read. */
  if (choice !== state.choices) return bitmap.close();
  const scale = Math.min(1, state.settings.image.most / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const picture = new OffscreenCanvas(width, height);
  picture.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  Object.assign(state, { picture, points: [], mask: null, cross: [width / 2, height / 2] });
  state.wanted++;
  byId("view").classList.remove("empty");
  byId("view").style.setProperty("--aspect", width / height);
  for (const sample of document.querySelectorAll(".sample")) sample.setAttribute("aria-pressed", sample.dataset.name === name);
  showMessage("Click on something in the picture.");
  byId("figures").textContent = "";
  draw();
  if (byId("loading").hidden) state.encoded = encode();
}

/* A promise that the worker knows the picture. */
function encode() {
  if (!state.picture) return null;
  const { width, height } = state.picture;
  const { data } = state.picture.getContext("2d").getImageData(0, 0, width, height);
  state.seconds.encode = null;
  showMessage("Reading the picture. You can click already.");
  const done = state.worker.ask("encode", { pixels: data.buffer, width, height }, [data.buffer]).then(({ seconds }) => {
    state.seconds.encode = seconds;
    if (!state.points.length) showMessage("Click on something in the picture.");
  });
  done.catch((error) => {
    if (state.device === "webgpu") return leaveGraphics(error);
    showMessage(`The picture cannot be encoded: ${error.message}`, true);
  });
  return done;
}

async function chooseFile(file) {
  if (file) await choose(file, file.name);
}

async function showExamples(addresses) {
  for (const [index, address] of addresses.entries()) {
    const button = document.createElement("button");
    Object.assign(button, { className: "sample", type: "button" });
    button.dataset.name = address;
    button.setAttribute("aria-label", `Example ${index + 1}`);
    button.append(Object.assign(document.createElement("img"), { src: address, alt: "" }));
    button.addEventListener("click", async () => choose(await (await fetch(address)).blob(), address));
    byId("samples").append(button);
  }
  if (!addresses.length) return showMessage("Choose a picture to begin.");
  const first = await (await fetch(addresses[0])).blob();
  /* A visitor may have been faster. */
  if (!state.choices) await choose(first, addresses[0]);
}

/* --- points and masks ----------------------------------------------------------------------------------------- */

function changePoints(points) {
  state.points = points;
  state.wanted++;
  if (!points.length) {
    state.mask = null;
    byId("figures").textContent = "";
  }
  draw();
  segment();
}

const addPoint = ([x, y], label) => state.picture && changePoints([...state.points, [x, y, label]]);
const undo = () => state.points.length && changePoints(state.points.slice(0, -1));

/* Ask for the mask of the points as they are now; while an answer is computed, only the last question waits. */
async function segment() {
  if (state.running) return;
  state.running = true;
  try {
    for (let answered = -1; answered !== state.wanted && state.points.length && state.encoded; ) {
      const asked = state.wanted;
      showMessage(state.seconds.encode === null ? "Reading the picture …" : "Segmenting …");
      await state.encoded;
      const answer = await state.worker.ask("segment", { points: state.points });
      answered = asked;
      if (answered === state.wanted) showAnswer(answer);
    }
  } catch (error) {
    showMessage(error.message, true);
  } finally {
    state.running = false;
  }
}

function showAnswer({ mask, score, seconds }) {
  state.mask = mask;
  state.seconds.segment = seconds;
  const pixels = mask.reduce((sum, one) => sum + one, 0);
  const { encode: encoding, threads } = state.seconds;
  const by = state.device === "webgpu" ? "on the graphics card" : `with ${threads} ${threads === 1 ? "thread" : "threads"}`;
  byId("figures").textContent = `Picture: ${milliseconds(encoding)} ${by}. Mask: ${milliseconds(seconds)}, ${pixels.toLocaleString("en")} pixels, predicted IoU ${score.toFixed(2)}.`;
  showMessage("Click again to add to it. Choose Background for what does not belong to it.");
  draw();
}

function draw() {
  const { picture, mask, points, cross } = state;
  byId("undo").disabled = byId("clear").disabled = !points.length;
  byId("save").disabled = byId("save-runs").disabled = !mask;
  if (!picture) return;
  const { width, height } = picture;
  const canvas = byId("view");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0);
  if (mask) pen.drawImage(paintLayer(width, height, (i) => (mask[i] ? MASK : null)), 0, 0);
  const size = Math.max(2, Math.max(width, height) / 250);
  drawPoints(pen, points, size);
  if (canvas.matches(":focus-visible")) drawCross(pen, cross, 4 * size);
}

function drawCross(pen, [x, y], arm) {
  for (const [colour, wide] of [["#ffffff", 3], ["#000000", 1]]) {
    pen.lineWidth = (wide * arm) / 10;
    pen.strokeStyle = colour;
    pen.beginPath();
    pen.moveTo(x - arm, y);
    pen.lineTo(x + arm, y);
    pen.moveTo(x, y - arm);
    pen.lineTo(x, y + arm);
    pen.stroke();
  }
}

/* --- start ---------------------------------------------------------------------------------------------------- */

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressKey(event) {
  if (!state.picture || event.altKey || event.metaKey) return;
  const { width, height } = state.picture;
  const key = event.key.toLowerCase();
  if (event.key in ARROWS) {
    const step = Math.max(width, height) / (event.shiftKey ? 250 : 40);
    const [x, y] = state.cross.map((value, axis) => value + step * ARROWS[event.key][axis]);
    state.cross = [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
    draw();
  } else if (key === "enter" || key === " ") addPoint(state.cross, state.label);
  else if (key === "b") addPoint(state.cross, 0);
  else if (key === "backspace" || (key === "z" && event.ctrlKey)) undo();
  else return;
  event.preventDefault();
}

function listen() {
  const canvas = byId("view");
  canvas.addEventListener("click", (event) => addPoint(pixelAt(event), state.label));
  canvas.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    addPoint(pixelAt(event), 0);
  });
  canvas.addEventListener("keydown", pressKey);
  for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, draw);
  const modes = document.querySelectorAll(".mode");
  for (const button of modes) {
    button.addEventListener("click", () => {
      state.label = Number(button.dataset.label);
      chooseButton(modes, button);
    });
  }
  byId("undo").addEventListener("click", undo);
  byId("clear").addEventListener("click", () => changePoints([]));
  for (const [id, save] of [["save", saveMask], ["save-runs", saveRuns]]) {
    byId(id).addEventListener("click", () => save(state.mask, state.picture.width, state.picture.height));
  }
  byId("file").addEventListener("change", (event) => chooseFile(event.target.files[0]));
  takeDrops(document.body, chooseFile);
  byId("device").addEventListener("change", (event) => load(event.target.value).catch(showFailure));
}

function showFailure(error) {
  byId("loading").hidden = true;
  showMessage(`The model cannot be loaded: ${error.message}`, true);
}

function showSizes() {
  const { name, encoder, decoder, runtimes, runtime_version: version } = state.settings;
  byId("about").textContent = `${name}, quantized to ${megabytes(encoder.bytes + decoder.bytes)},`;
  const model = megabytes(encoder.bytes + decoder.bytes);
  const sizes = Object.entries(runtimes).map(([kind, files]) => {
    const bytes = Object.values(files).reduce((sum, one) => sum + one.bytes, 0);
    return `${megabytes(bytes)} (${kind === "wasm" ? "WebAssembly" : "WebGPU"})`;
  });
  byId("sizes").textContent = `Download: ${model} for the model, and ONNX Runtime Web ${version}: ${sizes.join(" or ")}.`;
}

async function start() {
  byId("view").classList.add("empty");
  const answer = await fetch("mixqsam-web.json", { cache: "no-cache" });
  if (!answer.ok) throw new Error(`mixqsam-web.json: the server answered ${answer.status}.`);
  state.settings = await answer.json();
  showSizes();
  listen();
  const wish = new URLSearchParams(location.search).get("device");
  const graphics = await hasGraphics();
  if (graphics || wish === "webgpu") byId("device").add(new Option("the graphics card (WebGPU)", "webgpu"));
  const loading = load(wish in state.settings.runtimes ? wish : graphics ? "webgpu" : "wasm");
  loading.catch(showFailure);
  await showExamples(state.settings.examples);
}

start().catch(showFailure);
