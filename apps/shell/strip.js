// The process in one line: class, then token map and flow of every stage with the upsampling between
// them, then the decoder. What runs says where it is with `ecar:at` (see shared/dom.js); here the part
// that the open tab is at is lit. A part that is pressed opens what it does: a sentence, its tensors,
// what it cost in the run that a player showed last. `element` and `props` come from Gradio.

const root = element.querySelector(".strip");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const list = make("ol", "pipeline", "", root);
list.setAttribute("aria-label", "The process: press a part to see what it does");
const panel = make("section", "opened", "", root);
panel.id = "strip-opened";
panel.hidden = true;
const places = new Map(); // tab -> what it said last
let run = null; // the player's view that the numbers are of
let tiles = []; // and its pictures, by stage and row
let opened = null; // the part that is open

const buttons = props.value.map((part) => {
  const item = make("li", "", "", list);
  if (part.hue) item.style.setProperty("--hue", part.hue);
  const button = make("button", "", part.name, item);
  button.type = "button";
  const once = part.part === "class" || part.part === "decode";
  button.dataset.part = once ? part.part : `${part.part}-${part.stage}`;
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", panel.id);
  button.addEventListener("click", () => open(opened === part ? null : part));
  return button;
});

// -- where the run is -------------------------------------------------------------------------------

const panelOf = (node) => node?.closest?.("[role=tabpanel]") ?? null;
const visible = (tab) => tab === null || tab.offsetParent !== null;

function light() {
  const [, place] = [...places].find(([tab]) => tab && visible(tab)) ?? [null, places.get(null)];
  buttons.forEach((button) => {
    const now = place && [`${place.part}-${place.stage}`, place.part].includes(button.dataset.part);
    if (!now) return button.removeAttribute("aria-current");
    if (button.hasAttribute("aria-current")) return;
    button.setAttribute("aria-current", "step");
    center();
  });
}

// Where the strip is longer than the screen is wide, the part that is lit comes into sight.
function center() {
  const item = list.querySelector("[aria-current]")?.parentNode;
  if (!item) return;
  const left = item.offsetLeft - (list.clientWidth - item.offsetWidth) / 2;
  list.scrollTo({ left, behavior: calm.matches ? "auto" : "smooth" });
}
addEventListener("resize", center);

document.addEventListener("ecar:at", ({ detail }) => {
  places.set(panelOf(detail.from), { stage: detail.stage, part: detail.part });
  if (detail.view) ({ view: run, tiles } = detail);
  light();
  if (detail.view && opened) fill();
});
document.addEventListener("ecar:wait", ({ detail }) => {
  places.set(panelOf(document.getElementById(detail)), { stage: 0, part: "class" });
  light();
});
// Another tab is at another place; its name is scrolled into sight, too.
new MutationObserver((changes) => {
  const tab = changes.map(({ target }) => target).find((node) => node.matches("#tabs [role=tab][aria-selected=true]"));
  if (!tab) return;
  requestAnimationFrame(() => requestAnimationFrame(light));
  const bar = tab.parentNode;
  bar.scrollTo({ left: tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2 });
}).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });

// -- what a part does -------------------------------------------------------------------------------

function open(part, focusBack) {
  const before = opened;
  opened = part;
  props.value.forEach((one, index) => buttons[index].setAttribute("aria-expanded", String(one === part)));
  panel.hidden = !part;
  if (part) fill();
  else if (focusBack) buttons[props.value.indexOf(before)]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && opened) open(null, root.contains(document.activeElement));
});
document.addEventListener("pointerdown", (event) => {
  if (opened && !root.contains(event.target)) open(null);
});

const close = make("button", "close", "×", panel);
close.type = "button";
close.setAttribute("aria-label", "Close");
close.addEventListener("click", () => open(null, true));
const body = make("div", "body", "", panel);

function fill() {
  const { part, stage, name, sentence, note, tensors } = opened;
  body.replaceChildren();
  delete body.dataset.terms; // new words for the glossary
  panel.setAttribute("aria-label", name);
  panel.style.setProperty("--hue", opened.hue || "var(--border-color-primary)");
  make("h2", "", part === "flow" || part === "up" ? `${name}, stage ${stage + 1}` : name, body);
  make("p", "", [sentence, note].filter(Boolean).join(" "), body);
  const row = make("div", "row", "", body);
  pictures(row, part, stage);
  const table = make("table", "", "", make("div", "scroll", "", row));
  const head = make("tr", "", "", make("thead", "", "", table));
  for (const title of ["Tensor", "Shape", "Values"]) make("th", "", title, head).scope = "col";
  const rows = make("tbody", "", "", table);
  for (const tensor of tensors) {
    const line = make("tr", "", "", rows);
    make("th", "", tensor.name, line).scope = "row";
    make("td", "", tensor.shape, line);
    const range = tensor.key && run?.facts?.[tensor.stage]?.[tensor.key];
    make("td", "", range ? range.map((end) => end.toFixed(2)).join(" to ") : tensor.key ? "not yet" : "–", line);
  }
  make("p", "cost", cost(), body);
  if (run?.facts?.length) make("p", "of", `Pictures, values and times: ${run.title}.`, body);
}

function pictures(row, part, stage) {
  const add = (node, words) => {
    if (!node) return;
    const figure = make("figure", "", "", row);
    figure.append(node);
    make("figcaption", "", words, figure);
  };
  const tile = (of, kind) => {
    const shown = tiles[of]?.[kind];
    if (!shown?.childElementCount) return null;
    const copy = shown.cloneNode(true);
    copy.removeAttribute("style");
    return copy;
  };
  if (part === "map" && run?.facts?.[stage]?.map_picture) {
    const picture = make("img", "tile");
    picture.src = run.facts[stage].map_picture;
    picture.alt = `Token map of stage ${stage + 1} as colours`;
    add(picture, "as colours: its three principal components");
  }
  if (part === "flow") {
    add(tile(stage, "noisy"), "latent");
    add(tile(stage, "clean"), "clean estimate");
  }
  if (part === "up") add(tile(stage - 1, "noisy"), `end of stage ${stage}`);
  if (part === "decode") {
    add(tile(stage - 1, "noisy"), "finished latent");
    add(tile(stage - 1, "decoded"), "image");
  }
}

// The part's share of the run's work and time; before a run, its work with the model's own settings.
function cost() {
  const { part, stage, gflop } = opened;
  const facts = run?.facts ?? [];
  const share = (own, whole) => {
    const percent = whole ? (100 * own) / whole : 0;
    return whole ? ` (${percent < 1 ? "under 1" : percent.toFixed(0)} % of the image)` : "";
  };
  if (part === "class" || part === "up") return "Cost: next to none, no network runs.";
  if (part === "decode") {
    const took = facts.at(-1)?.ms.decode;
    return took ? `Cost: ${took.toFixed(1)} ms${share(took, milliseconds(facts))}; its work is not counted.` : "Cost: not measured yet.";
  }
  const own = facts[stage];
  if (!own) {
    const whole = props.value.reduce((sum, one) => sum + (one.gflop ?? 0), 0);
    return `Cost: ${gflop.toPrecision(3)} GFLOP${share(gflop, whole)}, counted from the shapes; no time measured yet.`;
  }
  const whole = facts.reduce((sum, one) => sum + one.gflop.map + one.gflop.flow, 0);
  return (
    `Cost: ${own.gflop[part].toPrecision(3)} GFLOP${share(own.gflop[part], whole)}, ` +
    `${own.ms[part].toFixed(1)} ms${share(own.ms[part], milliseconds(facts))}.`
  );
}

const milliseconds = (facts) =>
  facts.reduce((sum, one) => sum + one.ms.map + one.ms.flow + one.ms.decode, 0);
