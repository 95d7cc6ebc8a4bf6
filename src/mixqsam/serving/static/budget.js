/* Another budget for the right model: its bits and expected quality while sliders move, and the model to be tried. */

import { chooseRight, findModel, rightModel, showModels } from "./models.js";
import { ask, runLatest } from "./server.js";
import { state } from "./state.js";

/* Ranges of the sliders of one model. */
let range = null;
let isMaking = false;

/* A model that was made to be tried shares the analysis of its origin. */
const analysedModel = () => findModel(rightModel().base) ?? rightModel();
/* Sliders are logarithmic: 0 … 1000 from the lowest to the highest value. */
const valueOf = (name) => range[name].low * (range[name].high / range[name].low) ** (byId(name).value / 1000);
const sliderOf = (name, value) => (1000 * Math.log(value / range[name].low)) / Math.log(range[name].high / range[name].low);
const pauseFor = (time) => new Promise((resolve) => setTimeout(resolve, time));

function giga(value) {
  return (value / 1e9).toLocaleString("en-US", { maximumSignificantDigits: value < 1e12 ? 3 : 4 });
}

function allowTrial(reason) {
  byId("try").disabled = Boolean(reason) || isMaking;
  if (!isMaking) byId("try-note").textContent = reason ?? "";
}

function showValues() {
  byId("size-text").textContent = megabytes(valueOf("size"));
  byId("bitops-text").textContent = `${giga(valueOf("bitops"))} G`;
}

function describeMissing(model) {
  return `${model.name} has no stored analysis. Choose a directory on the right that mixqsam quantize wrote.`;
}

export const openBudget = runLatest(async (signal) => {
  const model = analysedModel();
  if (range?.model === model.name) return;
  range = null;
  byId("sliders").disabled = true;
  for (const element of document.querySelectorAll(".solution")) element.hidden = true;
  byId("solved").textContent = byId("expected").textContent = "";
  if (!model.analysed) return allowTrial(describeMissing(model));
  try {
    range = { model: model.name, ...(await ask("/api/allocate", { body: JSON.stringify({ model: model.name }), signal })) };
  } catch (error) {
    if (error.name !== "AbortError") allowTrial(error.message);
    return;
  }
  byId("sliders").disabled = false;
  /* Slightly above the model's own costs, so that the model itself fits the budget. */
  for (const name of ["size", "bitops"]) byId(name).value = Math.ceil(sliderOf(name, range[name].now));
  showValues();
  solve();
});

const budgetBody = () => JSON.stringify({ model: range.model, size: valueOf("size"), bitops: valueOf("bitops"), tied: byId("tied").checked });

const solve = runLatest(async (signal) => {
  byId("solved").textContent = "Solving …";
  let allocation;
  try {
    allocation = await ask("/api/allocate", { body: budgetBody(), signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("solved").textContent = error.message;
    byId("expected").textContent = "";
    return allowTrial("Without bits there is no model to try.");
  }
  const uniform = allocation.uniform ? `the largest uniform model within the budget is ${allocation.uniform}` : "no uniform model fits";
  const proof = allocation.gap ? `within ${(100 * allocation.gap).toFixed(2)}% of the optimum` : "proven optimal";
  byId("solved").textContent = `${megabytes(allocation.size)}, ${giga(allocation.bitops)} GBitOps, ${allocation.mean_weight_bits.toFixed(2)} bits per weight; ${uniform}; ${proof} in ${milliseconds(allocation.seconds)}.`;
  byId("expected").textContent = allocation.expected;
  for (const element of document.querySelectorAll(".solution")) element.hidden = false;
  byId("network").innerHTML = allocation.picture;
  byId("command").textContent = allocation.command;
  allowTrial(range.obstacle);
});

/* Make the model of the sliders in the background, and compare with it. */
async function tryBudget() {
  const note = byId("try-note");
  isMaking = byId("try").disabled = true;
  note.className = "busy";
  try {
    let trial = await ask("/api/tries", { body: budgetBody() });
    while (!trial.model && !trial.error) {
      note.textContent = `${trial.step} …`;
      await pauseFor(400);
      trial = await ask(`/api/tries/${trial.number}`);
    }
    if (trial.error) throw new Error(trial.error);
    state.models = trial.models;
    showModels();
    chooseRight(trial.model);
    note.className = "";
    note.textContent = `“${trial.model}” is on the right. It is rounded to nearest; the command below makes it with the recipe of ${range.model}.`;
  } catch (error) {
    note.className = "bad";
    note.textContent = error.message;
  } finally {
    isMaking = byId("try").disabled = false;
  }
}

export function listenToBudget() {
  let pause = null;
  for (const name of ["size", "bitops", "tied"]) {
    byId(name).addEventListener("input", () => {
      showValues();
      clearTimeout(pause);
      pause = setTimeout(solve, 120);
    });
  }
  byId("try").addEventListener("click", tryBudget);
  const describeUnit = (event) => {
    const unit = event.target.closest(".unit");
    if (unit) byId("unit-words").textContent = unit.dataset.words;
  };
  byId("network").addEventListener("pointerover", describeUnit);
  byId("network").addEventListener("click", describeUnit);
}
