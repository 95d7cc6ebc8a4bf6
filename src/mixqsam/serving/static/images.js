/* The gallery: choose a picture, or upload one. */

import { forgetEverything } from "./everything.js";
import { ask } from "./server.js";
import { forgetObjects, state } from "./state.js";

export async function choose(name) {
  const picture = new Image();
  state.wanted = name;
  picture.src = `/api/images/${encodeURIComponent(name)}`;
  await picture.decode();
  /* Another image was chosen while this one was on its way. */
  if (state.wanted !== name) return;
  Object.assign(state, { image: name, picture });
  forgetObjects();
  forgetEverything();
  for (const sample of document.querySelectorAll(".sample")) sample.setAttribute("aria-pressed", sample.dataset.name === name);
  showMessage("Click on something, or drag a box around it.");
}

export async function upload(file) {
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

export function showSamples(names) {
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
