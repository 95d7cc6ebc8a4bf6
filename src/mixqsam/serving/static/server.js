/* Questions to the server. */

export async function ask(path, { body, signal } = {}) {
  const answer = await send(path, { body, signal });
  return answer.json();
}

async function send(path, { body, signal }) {
  const options = body === undefined ? { signal } : { method: "POST", body, signal, headers: { "x-mixqsam": "1" } };
  const answer = await fetch(path, options);
  if (answer.ok) return answer;
  const busy = "The server is busy; try again in a few seconds.";
  const { error } = await answer.json().catch(() => ({ error: answer.status === 503 ? busy : `The server answered ${answer.status}.` }));
  throw new Error(error);
}

/* An answer that comes line by line: steps, and at last the result. */
export async function follow(path, { body, signal }, onStep) {
  const reader = (await send(path, { body, signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The server’s answer broke off.");
    text += value;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const line = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (line.error) throw new Error(line.error);
      if (!("done" in line)) return line;
      onStep(line);
    }
  }
}

/* Abort the running request when a newer one of its kind starts. */
export function runLatest(action) {
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

/* The mask in a black and white picture: its pixels, their number, and the box around them. */
export async function readMask(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const { data } = pen.getImageData(0, 0, width, height);
  return boundMask(Uint8Array.from({ length: width * height }, (_, i) => (data[4 * i] > 127 ? 1 : 0)), width);
}

function boundMask(pixels, width) {
  let [left, right, top, bottom] = [width, -1, -1, -1];
  for (let i = 0; i < pixels.length; i++) {
    if (!pixels[i]) continue;
    const x = i % width;
    bottom = (i - x) / width;
    if (top < 0) top = bottom;
    if (x < left) left = x;
    if (x > right) right = x;
  }
  return { pixels, left, right, top, bottom };
}
