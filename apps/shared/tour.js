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
function mark(patience) {
  const target = document.querySelector(steps[step].target);
  if (target) {
    marked = target;
    target.setAttribute("data-toured", "");
  } else if (patience && !card.hidden) {
    const wanted = step;
    setTimeout(() => { if (wanted === step && !marked) mark(patience - 1); }, 100);
  }
}

function show(index, focus) {
  step = index;
  unmark();
  title.textContent = steps[step].title;
  text.textContent = steps[step].text;
  count.textContent = `${step + 1} of ${steps.length}`;
  back.disabled = step === 0;
  next.textContent = step === steps.length - 1 ? "Done" : "Next";
  card.hidden = false;
  mark(100);
  if (!focus) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  marked?.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
  title.focus({ preventScroll: true });
}

function end() {
  unmark();
  card.hidden = true;
  try { localStorage.setItem(SEEN, "yes"); } catch { /* a browser that keeps nothing shows it again */ }
  opener.focus({ preventScroll: true });
}

opener.addEventListener("click", () => {
  document.querySelector("#tabs [role=tab]")?.click();
  show(0, true);
});
close.addEventListener("click", end);
back.addEventListener("click", () => show(step - 1, true));
next.addEventListener("click", () => (step === steps.length - 1 ? end() : show(step + 1, true)));
card.addEventListener("keydown", (event) => { if (event.key === "Escape") end(); });

let seen = false;
try { seen = localStorage.getItem(SEEN) !== null; } catch { seen = true; }
if (!seen) show(0, false);
