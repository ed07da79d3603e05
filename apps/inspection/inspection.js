// The inspector: the tokens of every stage as a grid that can be walked, the attention of the chosen
// one as heat, its row of the mask, the token maps as colours. The attention of a layer arrives
// whole (see views.py), so a click is answered here. `element`, `props` and `watch` come from
// Gradio's HTML component.

const root = element.querySelector(".inspector");
const name = root.dataset.name;
const IDLE = "Press Inspect to open a run.";
let view = null;
let weights = []; // per stage: (heads, tokens of the stage, tokens so far), 65535 = 1
let stages = []; // per stage: what of the page belongs to it
let chosen = null; // { stage, token }
let head = -1; // -1: the mean over heads
let ground = "latent"; // what lies under the heat
let shared = false; // one scale for all stages, or one each
let together = true; // token-map colours over all stages, or each alone


const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)}\u00a0%`;
const offset = (stage) => view.stages.slice(0, stage).reduce((sum, s) => sum + s.side ** 2, 0);
const place = (stage, token) => {
  const { side } = view.stages[stage];
  return `row ${Math.floor(token / side) + 1}, column ${(token % side) + 1}`;
};

// A named choice of a few, as radio buttons.
function choice(parent, legend, options, value, act) {
  const box = make("fieldset", "choice", "", parent);
  make("legend", "", legend, box);
  const group = `${name}-${legend.replaceAll(" ", "-")}`;
  options.forEach(([key, text]) => {
    const label = make("label", "", "", box);
    const input = make("input", "", "", label);
    input.type = "radio";
    input.name = group;
    input.checked = key === value;
    input.addEventListener("change", () => act(key));
    label.append(` ${text}`);
  });
  return box;
}

// -- building ---------------------------------------------------------------------------------------

const status = make("p", "status", IDLE, root);
const body = make("div", "", "", root);
const answer = make("p", "answer", "", null);
answer.setAttribute("aria-live", "polite");
let marker = null; // the chosen token's row of the mask
let maskText = null;

function build() {
  body.replaceChildren();
  const tools = make("div", "tools", "", body);
  const heads = Array.from({ length: view.heads }, (_, h) => [h, `${h + 1}`]);
  if (view.heads > 1) {
    choice(tools, "Head", [[-1, "mean"], ...heads], head, (key) => ((head = key), show()));
  }
  choice(tools, "Picture", [["latent", "latent"], ["decoded", "decoded"]], ground, (key) => {
    ground = key;
    stages.forEach((stage, index) => (stage.picture.src = view.stages[index][ground]));
  });
  choice(tools, "Scale", [[false, "each stage its own"], [true, "one for all"]], shared, (key) => {
    shared = key;
    show();
  });
  body.append(answer);
  const row = make("div", "stages", "", body);
  stages = view.stages.map((stage, index) => buildStage(row, stage, index));
  const lower = make("div", "lower", "", body);
  buildMask(lower);
  buildMaps(lower);
}

function buildStage(parent, stage, index) {
  const box = make("section", "stage", "", parent);
  box.style.setProperty("--hue", stage.hue);
  const title = make("div", "head", "", box);
  make("strong", "", `Stage ${index + 1}`, title);
  make("span", "", `${stage.size}×${stage.size} latent, ${stage.side}×${stage.side} tokens`, title);
  const frame = make("div", "frame", "", box);
  const picture = make("img", "", "", frame);
  picture.src = stage[ground];
  picture.alt = `Stage ${index + 1} where it ends`;
  const grid = make("div", "grid", "", frame);
  grid.setAttribute("role", "grid");
  grid.setAttribute("aria-label", `Patches of stage ${index + 1}`);
  grid.style.gridTemplate = `repeat(${stage.side}, 1fr) / repeat(${stage.side}, 1fr)`;
  const cells = [];
  for (let y = 0; y < stage.side; y++) {
    const line = make("div", "line", "", grid);
    line.setAttribute("role", "row");
    for (let x = 0; x < stage.side; x++) {
      const cell = make("div", "cell", "", line);
      cell.setAttribute("role", "gridcell");
      cell.tabIndex = -1;
      cell.dataset.token = cells.length;
      cells.push(cell);
    }
  }
  cells[0].tabIndex = 0;
  grid.addEventListener("click", (event) => pick(index, event.target));
  grid.addEventListener("keydown", (event) => walk(index, event));
  const share = make("p", "share", "", box);
  const bar = make("div", "bar", "", box);
  bar.setAttribute("aria-hidden", "true");
  const fill = make("span", "", "", bar);
  const legend = make("p", "legend", "", box);
  return { box, picture, cells, share, fill, legend };
}

function buildMask(parent) {
  const total = offset(view.stages.length);
  const box = make("section", "mask", "", parent);
  make("h2", "", "Block-causal mask", box);
  const plot = make("div", "plot", "", box);
  const top = make("div", "top", "", plot);
  const left = make("div", "left", "", plot);
  view.stages.forEach((stage, index) => {
    for (const side of [top, left]) {
      const band = make("span", "", `${index + 1}`, side);
      band.style.flexGrow = stage.side ** 2;
      band.style.setProperty("--hue", stage.hue);
    }
  });
  const area = make("div", "area", "", plot);
  const picture = make("img", "", "", area);
  picture.src = view.mask;
  picture.alt =
    `Mask of ${total} by ${total} tokens: rows are tokens that look, columns those looked at. ` +
    "A stage sees itself and all earlier stages; the hatched rest is hidden.";
  view.stages.slice(1).forEach((_, index) => {
    const at = `${(100 * offset(index + 1)) / total}%`;
    make("i", "rule across", "", area).style.top = at;
    make("i", "rule down", "", area).style.left = at;
  });
  marker = make("div", "marker", "", area);
  marker.style.height = `max(3px, ${100 / total}%)`;
  maskText = make("p", "", "", box);
  if (view.window) {
    const size = `${view.window}×${view.window}`;
    make("p", "", `In stages of more than ${size} tokens a token sees only its window.`, box);
  }
}

function buildMaps(parent) {
  const box = make("section", "maps", "", parent);
  make("h2", "", "Token maps as colours", box);
  const options = [[true, "all stages"], [false, "each stage alone"]];
  choice(box, "Directions over", options, together, (key) => ((together = key), showMaps()));
  const row = make("div", "row", "", box);
  view.stages.forEach((stage, index) => {
    const figure = make("figure", "", "", row);
    figure.style.setProperty("--hue", stage.hue);
    const frame = make("div", "frame", "", figure);
    const picture = make("img", "", "", frame);
    picture.alt = `Token map of stage ${index + 1}, ${stage.side} by ${stage.side} tokens`;
    const ring = make("i", "ring", "", frame);
    ring.style.width = ring.style.height = `${100 / stage.side}%`;
    const caption = make("figcaption", "", "", figure);
    Object.assign(stages[index], { map: picture, ring, caption });
  });
  stages.words = make("p", "", "", box);
  showMaps();
}

function showMaps() {
  view.stages.forEach((stage, index) => {
    stages[index].map.src = together ? stage.map_together : stage.map;
    const kept = together ? "" : `: ${percent(stage.explained)}`;
    stages[index].caption.textContent = `Stage ${index + 1}${kept}`;
  });
  const total = offset(view.stages.length);
  stages.words.textContent = together
    ? `Red, green and blue are the three directions in which the ${total} tokens, ${view.width} ` +
      `numbers each, vary most: they hold ${percent(view.explained)} of the variance. ` +
      "Equal colours mean alike tokens, across stages too."
    : "Each stage has three directions of its own, which hold the share of its variance given " +
      "below it. Colours of different stages cannot be compared.";
}

// -- choosing ---------------------------------------------------------------------------------------

function pick(stage, target) {
  const cell = target.closest(".cell");
  if (!cell) return;
  focusCell(stage, Number(cell.dataset.token));
  chosen = { stage, token: Number(cell.dataset.token) };
  show();
}

function focusCell(stage, token) {
  stages[stage].cells.forEach((cell, index) => (cell.tabIndex = index === token ? 0 : -1));
  stages[stage].cells[token].focus({ preventScroll: true });
}

function walk(stage, event) {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  const { side } = view.stages[stage];
  const token = Number(cell.dataset.token);
  const [x, y] = [token % side, Math.floor(token / side)];
  const goal = {
    ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [x, y - 1], ArrowDown: [x, y + 1],
    Home: [0, y], End: [side - 1, y],
  }[event.key]; // prettier-ignore
  if (event.key === "Enter" || event.key === " ") pick(stage, cell);
  else if (goal && Math.min(...goal) >= 0 && Math.max(...goal) < side)
    focusCell(stage, goal[1] * side + goal[0]);
  else if (!goal) return;
  event.preventDefault();
}

// The chosen token's weights on all tokens so far, of one head or the mean over heads.
function looks() {
  const { stage, token } = chosen;
  const count = view.stages[stage].side ** 2;
  const soFar = offset(stage + 1);
  const all = weights[stage];
  const row = new Float64Array(soFar);
  const from = head < 0 ? Array.from({ length: view.heads }, (_, h) => h) : [head];
  for (const h of from) {
    const start = (h * count + token) * soFar;
    for (let key = 0; key < soFar; key++) row[key] += all[start + key] / 65535 / from.length;
  }
  return row;
}

function show() {
  const row = looks();
  const { stage, token } = chosen;
  announce(root, stage, "map");
  const top = Math.max(...row);
  const told = [];
  stages.forEach((part, index) => {
    const seen = index <= stage;
    part.box.classList.toggle("unseen", !seen);
    const own = seen ? row.slice(offset(index), offset(index + 1)) : [];
    const sum = own.reduce((total, weight) => total + weight, 0);
    const largest = own.length ? Math.max(...own) : 0;
    const scale = shared ? top : largest;
    part.cells.forEach((cell, key) => {
      const isChosen = index === stage && key === token;
      const strongest = seen && own[key] === largest;
      cell.style.setProperty("--heat", seen && scale ? (own[key] / scale).toFixed(3) : 0);
      cell.classList.toggle("chosen", isChosen);
      cell.classList.toggle("strongest", strongest);
      cell.setAttribute("aria-selected", isChosen);
      const words = seen ? percent(own[key]) : "not seen";
      const label = `${place(index, key)}: ${words}${isChosen ? ", chosen" : ""}`;
      cell.setAttribute("aria-label", label);
      cell.title = label;
    });
    part.fill.style.width = `${100 * sum}%`;
    if (seen) {
      const even = view.stages[index].side ** 2 / row.length;
      part.share.textContent = `${percent(sum)} of the attention`;
      part.legend.textContent =
        `${percent(even)} if it looked everywhere alike. Full colour: ${percent(scale)} ` +
        `a token; ○ the strongest, ${percent(largest)}.`;
      told.push(`stage ${index + 1}: ${percent(sum)}`);
    } else {
      part.share.textContent = "Not seen";
      part.legend.textContent = "A later stage: it does not exist yet.";
    }
    part.ring.hidden = index !== stage;
    const { side } = view.stages[index];
    part.ring.style.left = `${(100 * (token % side)) / side}%`;
    part.ring.style.top = `${(100 * Math.floor(token / side)) / side}%`;
  });
  const which = view.heads < 2 ? "" : head < 0 ? ", mean of the heads" : `, head ${head + 1}`;
  answer.textContent =
    `Token at ${place(stage, token)} of stage ${stage + 1}, layer ${view.layer + 1}${which}. ` +
    `Attention to ${told.join(", ")}.`;
  const total = offset(view.stages.length);
  const line = offset(stage) + token;
  marker.style.top = `min(${(100 * line) / total}%, calc(100% - 3px))`;
  maskText.textContent =
    `Row ${line + 1} of ${total} is the chosen token's: the black line. It sees ${row.length} tokens, ` +
    "all up to the end of its own stage; what is hatched is hidden from it.";
}

function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint16Array(bytes.buffer);
}

function receive() {
  root.classList.remove("waiting");
  const newest = props.value;
  if (!newest || !newest.stages) return;
  const focus = root.contains(document.activeElement) && document.activeElement.dataset.token;
  view = newest;
  weights = view.attention.map(unpack);
  if (head >= view.heads) head = -1;
  const last = view.stages.length - 1;
  const { side } = view.stages[last];
  if (!chosen || chosen.stage > last || chosen.token >= view.stages[chosen.stage].side ** 2) {
    chosen = { stage: last, token: Math.floor(side / 2) * side + Math.floor(side / 2) };
  }
  status.textContent = `Open: ${view.title}`;
  build();
  stages[chosen.stage].cells.forEach((cell, key) => (cell.tabIndex = key === chosen.token ? 0 : -1));
  show();
  if (focus) focusCell(chosen.stage, chosen.token);
}

awaits(root, status, (cut) => {
  if (cut) status.textContent = "Stopped.";
  else status.textContent = view ? `Open: ${view.title}` : IDLE;
});

watch("value", receive);
receive();
