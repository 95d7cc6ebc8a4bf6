/* All that is shown around the canvases: the objects, what buttons can do, and the figures of the selected object. */

import { hasPrompt, state } from "./state.js";
import { repaint } from "./views.js";

export function render() {
  repaint();
  const { objects, selected, everything, picture } = state;
  byId("objects").replaceChildren(...objects.map(makeChip));
  byId("undo").disabled = !selected?.history.length;
  byId("clear").disabled = !hasPrompt(selected);
  byId("new-object").disabled = !hasPrompt(selected);
  byId("save").disabled = !selected?.masks[1];
  byId("save-runs").disabled = !objects.some((object) => object.masks[1]);
  byId("everything").disabled = !picture;
  byId("everything").setAttribute("aria-pressed", everything !== null);
  byId("mask").value = selected?.choice ?? 0;
  showFigures(selected?.answer);
}

function makeChip(object) {
  const chip = document.createElement("span");
  chip.className = "chip";
  const pick = makeButton(object, "pick", `Object ${object.number}`);
  pick.setAttribute("aria-pressed", object === state.selected);
  const sign = document.createElement("i");
  sign.style.background = `rgb(${object.colour})`;
  pick.prepend(sign);
  const drop = makeButton(object, "drop", "×");
  drop.setAttribute("aria-label", `Delete object ${object.number}`);
  chip.append(pick, drop);
  return chip;
}

function makeButton(object, act, text) {
  const button = document.createElement("button");
  button.type = "button";
  Object.assign(button.dataset, { act, number: object.number });
  button.textContent = text;
  return button;
}

function showFigures(answer) {
  byId("figures").hidden = !answer;
  byId("agreement").textContent = answer ? describeDifference(answer.difference) : "";
  if (!answer) return;
  const body = document.createElement("tbody");
  for (const cells of answer.results.map(figuresOf)) {
    const row = body.insertRow();
    for (const cell of cells) row.insertCell().textContent = cell;
  }
  byId("figures").tBodies[0].replaceWith(body);
}

function figuresOf(result) {
  const size = state.models.find((model) => model.name === result.model)?.size;
  const encoded = milliseconds(result.encode_seconds) + (result.encoded_now ? "" : " (cached)");
  return [result.model, size ? megabytes(size) : "–", encoded, milliseconds(result.prompt_seconds), result.predicted_iou.toFixed(3), result.pixels.toLocaleString("en")];
}

function describeDifference({ iou, only_first: left, only_second: right }) {
  return `Object ${state.selected.number}: the masks’ IoU is ${iou.toFixed(3)}. ${left.toLocaleString("en")} pixels are only in the left one, ${right.toLocaleString("en")} only in the right one.`;
}
