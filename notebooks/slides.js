// Arrow keys, space, Page Up and Page Down turn the slides; the address remembers which one it is.
"use strict";
const sections = [...document.querySelectorAll("section")];
let here = 0;

function show(number) {
  here = Math.min(Math.max(number, 0), sections.length - 1);
  sections.forEach((section, place) => section.classList.toggle("here", place === here));
  document.getElementById("where").textContent = `${here + 1} / ${sections.length}`;
  history.replaceState(null, "", `#${here + 1}`);
  fit(sections[here]);
}

// What is still too tall gets smaller letters and pictures; beyond that the slide scrolls.
function fit(section) {
  const inner = section.firstElementChild;
  for (let size = 1; size > 0.6; size -= 0.04) {
    inner.style.fontSize = `${size}em`;
    inner.style.setProperty("--tall", `${66 * size}vh`);
    if (section.scrollHeight <= section.clientHeight) return;
  }
}

function onward() {
  const hidden = sections[here].querySelector(".fragment:not(.shown)");
  if (hidden) hidden.classList.add("shown");
  else show(here + 1);
}

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const inControl = event.target.closest?.("summary, button") && [" ", "Enter"].includes(event.key);
  if (inControl) return;
  if (["ArrowRight", "ArrowDown", "PageDown", " "].includes(event.key)) onward();
  else if (["ArrowLeft", "ArrowUp", "PageUp"].includes(event.key)) show(here - 1);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(sections.length - 1);
  else return;
  event.preventDefault();
});
addEventListener("resize", () => fit(sections[here]));
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1 || 0));
addEventListener("beforeprint", () => sections.forEach((one) => (one.firstElementChild.style.fontSize = "")));
document.getElementById("back").addEventListener("click", () => show(here - 1));
document.getElementById("on").addEventListener("click", onward);
document.documentElement.classList.add("js");
show(Number(location.hash.slice(1)) - 1 || 0);
