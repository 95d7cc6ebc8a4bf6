/* A unit tells itself below the picture, where fingers have no hover; chosen by a tap it stays told. */
for (const told of document.querySelectorAll("[data-told]")) {
  const picture = document.getElementById(told.dataset.told);
  let chosen = null;
  picture.addEventListener("pointerover", (event) => {
    const unit = event.target.closest(".unit");
    if (unit && !chosen) told.textContent = unit.dataset.words;
  });
  picture.addEventListener("click", (event) => {
    const unit = event.target.closest(".unit");
    if (chosen) chosen.classList.remove("chosen");
    chosen = unit === chosen ? null : unit;
    if (chosen) { chosen.classList.add("chosen"); told.textContent = chosen.dataset.words; }
  });
}
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
