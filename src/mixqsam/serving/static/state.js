/* What the page knows: models, the picture, its objects, and everything that was found in it. */

/* Everyone can tell these apart. */
const PALETTE = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [120, 94, 240], [158, 42, 43]];
/* More objects than a person clicks; each one holds two masks of the picture's size. */
const MOST_OBJECTS = 64;

/* `selected` is one of `objects`; `everything` holds the masks to choose objects from, or null. */
export const state = { models: [], limits: {}, wanted: null, image: null, picture: null, label: 1, drag: null, objects: [], selected: null, everything: null };

/* Hues that are far from each other. */
export function hueOf(index) {
  const hue = (index * 137.508) % 360;
  const channel = (shift) => Math.round(255 * (0.5 + 0.38 * Math.cos(((hue - shift) * Math.PI) / 180)));
  return [channel(0), channel(120), channel(240)];
}

export const hasPrompt = (object) => Boolean(object?.box || object?.points.length);

/* A new selected object; an empty one is used first. */
export function addObject() {
  const empty = state.objects.find((object) => !hasPrompt(object) && !object.history.length);
  if (!empty && state.objects.length >= MOST_OBJECTS) throw new Error(`There are ${MOST_OBJECTS} objects; delete one before you add another.`);
  state.selected = empty ?? makeObject();
  if (!empty) state.objects.push(state.selected);
  return state.selected;
}

function makeObject() {
  const used = new Set(state.objects.map((object) => object.number));
  let number = 1;
  while (used.has(number)) number++;
  return { number, colour: PALETTE[number - 1] ?? hueOf(number), box: null, points: [], choice: 0, history: [], masks: [null, null], answer: null, run: null };
}

/* Objects of another picture. */
export function forgetObjects() {
  Object.assign(state, { objects: [], selected: null, everything: null, drag: null });
  addObject();
}
