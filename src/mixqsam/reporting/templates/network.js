/* Show the description of a unit below the picture, because touch screens have no hover; a tap pins it. */
for (const caption of document.querySelectorAll("[data-unit-words]")) {
  const picture = document.getElementById(caption.dataset.unitWords);
  let chosen = null;
  picture.addEventListener("pointerover", (event) => {
    const unit = event.target.closest(".unit");
    if (unit && !chosen) caption.textContent = unit.dataset.words;
  });
  picture.addEventListener("click", (event) => {
    const unit = event.target.closest(".unit");
    if (chosen) chosen.classList.remove("chosen");
    chosen = unit === chosen ? null : unit;
    if (chosen) { chosen.classList.add("chosen"); caption.textContent = chosen.dataset.words; }
  });
}
addEventListener("beforeprint", () => { for (const section of document.querySelectorAll("details")) section.open = true; });
