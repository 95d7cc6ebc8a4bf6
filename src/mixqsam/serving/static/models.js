/* The two lists of models. */

import { state } from "./state.js";

const lists = [0, 1].map((index) => byId(`model-${index}`));

export const findModel = (name) => state.models.find((model) => model.name === name);
export const rightModel = () => findModel(lists[1].value);

/* Fill the lists; what was chosen stays chosen where it is still served. */
export function showModels() {
  lists.forEach((list, index) => {
    const chosen = list.value;
    list.replaceChildren(...state.models.map(({ name, size }) => new Option(size ? `${name} (${megabytes(size)})` : name, name)));
    if (findModel(chosen)) list.value = chosen;
    else list.selectedIndex = Math.min(index, state.models.length - 1);
  });
  nameViews();
}

export function nameViews() {
  lists.forEach((list, index) => (byId(`name-${index}`).textContent = list.value));
}

/* As if the visitor had chosen it. */
export function chooseRight(name) {
  lists[1].value = name;
  lists[1].dispatchEvent(new Event("change"));
}

export function listenToModels(act) {
  lists.forEach((list, index) =>
    list.addEventListener("change", () => {
      nameViews();
      act(index);
    }),
  );
}
