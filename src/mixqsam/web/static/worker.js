/* Runs the model beside the page, so that the page stays alive: loads it, encodes pictures, answers prompts. */

import { drawnSize, makeFrame, resizedSize } from "./pixels.js";

const model = { settings: null, runtime: null, encoder: null, decoder: null, picture: null };
/* More threads than this do not pay for a model of this size. */
const MOST_THREADS = 4;

/** The bytes of a file, unpacked where it is compressed; some servers let the browser unpack it. */
async function download({ file }, onBytes) {
  const answer = await fetch(new URL(file, self.location.href));
  if (!answer.ok) throw new Error(`${file.split("?")[0]} cannot be loaded: the server answered ${answer.status}.`);
  const parts = [];
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    onBytes(part.value.length);
  }
  const whole = new Blob(parts);
  const [first, second] = new Uint8Array(await whole.slice(0, 2).arrayBuffer());
  if (first !== 0x1f || second !== 0x8b) return new Uint8Array(await whole.arrayBuffer());
  const unpacked = whole.stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

async function load({ settings, device }) {
  const files = settings.runtimes[device];
  const total = [files.binary, settings.encoder, settings.decoder].reduce((sum, one) => sum + one.bytes, 0);
  let loaded = 0;
  const onBytes = (count) => {
    loaded += count;
    self.postMessage({ progress: Math.min(1, loaded / total) });
  };
  const address = (entry) => new URL(entry.file, self.location.href).href;
  const runtime = await import(address(files.script));
  const [binary, ...graphs] = await Promise.all([files.binary, settings.encoder, settings.decoder].map((one) => download(one, onBytes)));
  self.postMessage({ progress: 1 });
  /* Without the headers that isolate a page, browsers give no shared memory, and one thread computes. */
  runtime.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  runtime.env.wasm.wasmBinary = binary.buffer;
  runtime.env.wasm.wasmPaths = { mjs: address(files.loader) };
  /* Its warnings are about speed, and go to the console as errors. */
  const quiet = { logSeverityLevel: 3 };
  runtime.env.logLevel = "error";
  const encoder = await runtime.InferenceSession.create(graphs[0], { ...quiet, executionProviders: [device] });
  /* The decoder is small, and its shapes change with the number of points. */
  const decoder = await runtime.InferenceSession.create(graphs[1], { ...quiet, executionProviders: ["wasm"] });
  Object.assign(model, { settings, runtime, encoder, decoder, picture: null });
  return { device, threads: runtime.env.wasm.numThreads };
}

async function encode({ pixels, height, width }) {
  const { image } = model.settings;
  model.picture = null;
  const frame = makeFrame(new Uint8ClampedArray(pixels), height, width, image);
  const found = await model.encoder.run({ x: new model.runtime.Tensor("float32", frame, [1, 3, image.side, image.side]) });
  model.picture = { height, width, embedding: found.image_embeddings };
  return {};
}

/** Points x, y in the picture's pixels, label 1 (object) or 0 (background) → a mask of the picture's size. */
async function segment({ points }) {
  const { height, width, embedding } = model.picture;
  const { image, padding } = model.settings;
  const [newHeight, newWidth] = resizedSize(height, width, image.longest);
  const drawn = drawnSize(height, width, image.longest);
  const places = points.flatMap(([x, y]) => [(x * newWidth) / width, (y * newHeight) / height]);
  const labels = points.map(([, , label]) => label);
  const count = points.length + padding;
  const side = 4 * embedding.dims[2];
  const tensor = (values, ...shape) => new model.runtime.Tensor("float32", Float32Array.from(values), shape);
  const found = await model.decoder.run({
    image_embeddings: embedding,
    point_coords: tensor([...places, ...new Array(2 * padding).fill(0)], 1, count, 2),
    point_labels: tensor([...labels, ...new Array(padding).fill(-1)], 1, count),
    mask_input: new model.runtime.Tensor("float32", new Float32Array(side ** 2), [1, 1, side, side]),
    has_mask_input: tensor([0], 1),
    orig_im_size: tensor(drawn, 2),
  });
  const logits = found.masks.data;
  const mask = new Uint8Array(height * width);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) mask[row * width + column] = logits[row * drawn[1] + column] > 0 ? 1 : 0;
  }
  return { mask, score: found.iou_predictions.data[0] };
}

const actions = { load, encode, segment };
/* One after the other: a session answers one question at a time. */
let last = Promise.resolve();

self.addEventListener("message", ({ data: { id, kind, body } }) => {
  last = last.then(async () => {
    const started = performance.now();
    try {
      const value = await actions[kind](body);
      self.postMessage({ id, value: { ...value, seconds: (performance.now() - started) / 1000 } });
    } catch (error) {
      self.postMessage({ id, error: error?.message || String(error) });
    }
  });
});
