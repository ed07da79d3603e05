// The glossary: terms in the page's own words become ones that say what they mean, on hover, focus
// and touch; all of them in a list behind a button of the head. `element` and `props` come from Gradio.

// Where words are ours, and nobody else changes them while they are shown.
const TEXTS = [
  ".introduction p", ".work p", ".player .label", ".player figcaption", ".costs th[scope=row]", ".costs caption",
  ".strip .opened .body", ".present-notes p", ".tour .card p", ".views section > p", ".inspector .explained",
].join(", "); // prettier-ignore
const root = element.querySelector(".glossary");
const terms = props.value.map((entry) => ({ ...entry, of: new RegExp(`^(?:${entry.forms})$`, "iu") }));
// The longest first, so that "token map" is not taken for "token".
const longest = [...terms].sort((one, other) => other.term.length - one.term.length);
const any = new RegExp(`(?<![\\p{L}\\p{N}])(?:${longest.map(({ forms }) => forms).join("|")})(?![\\p{L}\\p{N}])`, "giu");

// -- the list ---------------------------------------------------------------------------------------

const opener = make("button", "open", "Glossary", root);
opener.type = "button";
const dialog = make("dialog", "glossary-list", "", root);
dialog.setAttribute("aria-labelledby", "glossary-title");
make("h2", "", "Glossary", dialog).id = "glossary-title";
const words = make("dl", "", "", dialog);
words.tabIndex = 0;
words.setAttribute("aria-label", "All terms");
[...terms].sort((one, other) => one.term.localeCompare(other.term)).forEach(({ term, text }) => {
  const pair = make("div", "", "", words);
  make("dt", "", term, pair);
  make("dd", "", text, pair);
});
const close = make("button", "open", "Close", dialog);
close.type = "button";
close.addEventListener("click", () => dialog.close());
opener.addEventListener("click", () => dialog.showModal());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // beside the list
});

// -- a term in a text -------------------------------------------------------------------------------

const tip = make("div", "term-meaning", "", document.querySelector(".gradio-container"));
tip.id = "term-meaning";
tip.setAttribute("role", "tooltip");
tip.hidden = true;
let told = null; // the term whose meaning is shown
let leaving = 0;

function tell(button) {
  clearTimeout(leaving);
  if (told && told !== button) hush();
  told = button;
  const { term, text } = terms[button.dataset.term];
  tip.replaceChildren();
  make("strong", "", `${term}: `, tip);
  tip.append(text);
  tip.hidden = false;
  button.setAttribute("aria-describedby", tip.id);
  const box = button.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8));
  const below = box.bottom + 6;
  const fits = below + tip.offsetHeight < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${fits ? below : Math.max(8, box.top - tip.offsetHeight - 6)}px`;
}

function hush() {
  clearTimeout(leaving);
  told?.removeAttribute("aria-describedby");
  told = null;
  tip.hidden = true;
}

const termOf = (event) => event.target.closest?.(".term");
// Long enough to move the pointer onto the meaning, which may be read and copied there.
const leave = () => {
  clearTimeout(leaving);
  leaving = setTimeout(() => {
    if (told !== document.activeElement && !tip.matches(":hover")) hush();
  }, 200);
};
document.addEventListener("pointerover", (event) => {
  const button = termOf(event);
  if (button) tell(button);
  else if (told && !tip.contains(event.target)) leave();
});
document.addEventListener("focusin", (event) => (termOf(event) ? tell(termOf(event)) : hush()));
document.addEventListener("focusout", (event) => { if (termOf(event)) leave(); });
document.addEventListener("click", (event) => {
  const button = termOf(event);
  if (button) {
    event.preventDefault();
    tell(button);
  } else if (told && !tip.contains(event.target)) hush();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !told) return;
  hush();
  event.stopImmediatePropagation(); // only this closes, not what the term stands in
}, true);
addEventListener("scroll", () => { if (told) hush(); }, { passive: true });

// The first time that a text says a term, it becomes one that can be asked.
function mark(text) {
  if (text.dataset.terms) return;
  text.dataset.terms = "marked";
  const known = new Set();
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  for (const node of nodes) {
    if (node.parentElement.closest(".term, button, a, label, code, svg, h2")) continue;
    const pieces = [];
    let from = 0;
    for (const found of node.data.matchAll(any)) {
      const index = terms.findIndex((entry) => entry.of.test(found[0]) || entry.term === found[0]);
      if (index < 0 || known.has(index)) continue;
      known.add(index);
      const word = make("dfn", "term", found[0]);
      word.tabIndex = 0;
      word.setAttribute("role", "button");
      word.dataset.term = index;
      pieces.push(node.data.slice(from, found.index), word);
      from = found.index + found[0].length;
    }
    if (pieces.length) node.replaceWith(...pieces, node.data.slice(from));
  }
}

let due = false;
function markAll() {
  due = false;
  document.querySelectorAll(TEXTS).forEach((text) => { if (text.textContent.trim()) mark(text); });
  if (told && !told.isConnected) hush();
}
new MutationObserver(() => {
  if (!due) requestAnimationFrame(markAll);
  due = true;
}).observe(document.body, { subtree: true, childList: true });
markAll();
