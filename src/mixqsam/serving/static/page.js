/* The page of `mixqsam serve`: one image, objects with prompts, two models, their difference; and other budgets. */

import { listenToBudget, openBudget } from "./budget.js";
import { forgetEverything, toggleEverything } from "./everything.js";
import { choose, showSamples, upload } from "./images.js";
import { listenToModels, showModels } from "./models.js";
import { change, clear, pressChip, saveAll, saveSelected, segmentAll, startObject, undo } from "./objects.js";
import { listen, listenToModes, pressKey } from "./prompts.js";
import { ask } from "./server.js";
import { forgetObjects, state } from "./state.js";

function chooseModel(index) {
  if (index === 1) forgetEverything();
  segmentAll();
  if (index === 1) openBudget();
}

function listenToAll() {
  const buttons = { undo, clear, "new-object": startObject, save: saveSelected, "save-runs": saveAll, everything: toggleEverything, objects: pressChip };
  for (const [id, act] of Object.entries(buttons)) byId(id).addEventListener("click", act);
  for (const index of [0, 1]) listen(byId(`view-${index}`));
  byId("mask").addEventListener("change", () => change(state.selected, { choice: Number(byId("mask").value) }));
  byId("file").addEventListener("change", (event) => upload(event.target.files[0]));
  takeDrops(byId("drop"), upload);
  document.addEventListener("keydown", pressKey);
  listenToModes();
  listenToModels(chooseModel);
  listenToBudget();
}

async function start() {
  Object.assign(state, await ask("/api/state"));
  forgetObjects();
  showModels();
  showSamples(state.samples);
  for (const side of [...byId("side").options]) if (Number(side.value) > state.limits.grid) side.remove();
  byId("legend").innerHTML = [2, 3, 4, 5, 6, 7, 8, 16].map((bits) => `<span><i class="b${bits}"></i>${bits} bits</span>`).join("");
  listenToAll();
  if (state.samples.length) await choose(state.samples[0]);
  else showMessage("Upload an image to begin.");
  openBudget();
}

start().catch((error) => showMessage(error.message, true));
