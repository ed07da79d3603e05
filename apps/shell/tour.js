// The guided tour: a card in the corner that points at five places, one after another. It opens by
// itself on the first visit only, blocks nothing, and Escape closes it.

const SEEN = "ecar-tour-seen";
const steps = props.value;
const root = element.querySelector(".tour");
let step = 0;
let marked = null;

const opener = make("button", "open", "Guided tour", root);
opener.type = "button";
const card = make("div", "card", "", root);
card.setAttribute("role", "dialog");
card.setAttribute("aria-labelledby", "tour-title");
card.setAttribute("aria-describedby", "tour-text");
card.hidden = true;
const title = make("h2", "", "", card);
title.id = "tour-title";
title.tabIndex = -1;
const text = make("p", "", "", card);
text.id = "tour-text";
const row = make("div", "row", "", card);
const close = make("button", "", "Close", row);
const count = make("span", "count", "", row);
const back = make("button", "", "Back", row);
const next = make("button", "next", "Next", row);
[close, back, next].forEach((button) => (button.type = "button"));

function unmark() {
  marked?.removeAttribute("data-toured");
  marked = null;
}

// The page is still being built when the first visit begins: what is not there yet is waited for.
function mark(patience, focus) {
  const { target, stage } = steps[step];
  const found = document.querySelector(target);
  if (found?.offsetParent) {
    marked = found;
    found.setAttribute("data-toured", "");
    if (stage !== undefined) document.dispatchEvent(new CustomEvent("ecar:drive", { detail: stage }));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (focus) found.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  } else if (patience && !card.hidden) {
    const wanted = step;
    setTimeout(() => { if (wanted === step && !marked) mark(patience - 1, focus); }, 100);
  }
}

function show(index, focus) {
  step = index;
  unmark();
  title.textContent = steps[step].title;
  text.textContent = steps[step].text;
  delete text.dataset.terms; // new words for the glossary
  count.textContent = `${step + 1} of ${steps.length}`;
  back.disabled = step === 0;
  next.textContent = step === steps.length - 1 ? "Done" : "Next";
  card.hidden = false;
  if (focus) openTab(steps[step].tab);
  mark(100, focus);
  if (focus) title.focus({ preventScroll: true });
}

function end() {
  unmark();
  card.hidden = true;
  try { localStorage.setItem(SEEN, "yes"); } catch { /* a browser that keeps nothing shows it again */ }
  opener.focus({ preventScroll: true });
}

opener.addEventListener("click", () => show(0, true));
close.addEventListener("click", end);
back.addEventListener("click", () => show(step - 1, true));
next.addEventListener("click", () => (step === steps.length - 1 ? end() : show(step + 1, true)));
card.addEventListener("keydown", (event) => { if (event.key === "Escape") end(); });

let seen = false;
try { seen = localStorage.getItem(SEEN) !== null; } catch { seen = true; }
if (!seen) show(0, false);
