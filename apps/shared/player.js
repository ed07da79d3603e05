// The player: one lane per stage, a scrubber, three curves. The server sends a view that grows (see
// stream.py); this shows its frames one after another, so that a run that took half a second can be
// followed by eye, and again as often as one likes without asking the server. `element`, `props` and
// `watch` come from Gradio's HTML component.

const ROWS = [
  ["noisy", "Noisy latent", "what the flow head carries towards the image"],
  ["clean", "Clean estimate", "where it would land from here"],
  ["decoded", "Decoded", "that estimate, through the tokenizer"],
];
const CURVES = [
  ["velocity", "Velocity", "root mean square of the head's velocity"],
  ["noise", "Noise level", "1 − t: the share of noise in the latent"],
  ["change", "Change", "of the clean estimate since the step before"],
];
const SIDES = [64, 460]; // pixels of the finest stage: at least, at most; between them, the room there is
const HEADING = 116; // pixels of the column that names the stages
const NARROW_HEADING = 64; // and on a phone
const WIDE_HEADING = 152; // and in a talk
const GAP = 8; // pixels between two columns
const PACE = 70; // milliseconds a frame stays, at least
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const root = element.querySelector(".player");
const name = root.dataset.name;
let view = null; // the newest view
let tiles = []; // tiles[stage][row]
let arrows = []; // arrows[stage]: the one that leads into it
let heads = [];
let frames = []; // what can be shown, the upsampling before each new stage included
let received = 0; // frames of the view already taken over
let at = -1; // the frame in sight
let following = true; // going on by itself; a person who scrubs stops that
const presenting = () => document.documentElement.classList.contains("present");
let looping = false;
let gate = -1; // the frame before which a talk waits
let stopped = false; // what still arrives of a stopped run is not shown

const status = make("p", "status", "", root);
const spoken = make("p", "spoken", "", root);
spoken.setAttribute("aria-live", "polite");
const grid = make("div", "grid", "", root);

// -- the scrubber -----------------------------------------------------------------------------------

const transport = make("div", "transport", "", root);
function button(sign, label, act) {
  const node = make("button", "", sign, transport);
  node.type = "button";
  node.setAttribute("aria-label", label);
  node.title = label;
  node.addEventListener("click", act);
  return node;
}
button("|◀", "First step", () => seek(0));
button("‹", "One step back", () => seek(at - 1));
const playButton = button("Play", "Play", toggle);
button("›", "One step on", () => seek(at + 1));
button("▶|", "Last step", () => seek(frames.length - 1));
const track = make("div", "track", "", transport);
const slider = make("input", "", "", track);
Object.assign(slider, { type: "range", min: 0, max: 0, step: 1, value: 0 });
slider.setAttribute("aria-label", "Step of the run");
const marks = make("div", "marks", "", track);
marks.setAttribute("aria-hidden", "true");
slider.addEventListener("input", () => seek(Number(slider.value)));
transport.addEventListener("keydown", (event) => {
  const onSlider = event.target === slider;
  if (event.key === " " && onSlider) toggle();
  else if (event.key === "ArrowLeft" && !onSlider) seek(at - 1);
  else if (event.key === "ArrowRight" && !onSlider) seek(at + 1);
  else return;
  event.preventDefault();
});

function seek(index) {
  if (!frames.length) return;
  following = false;
  show(Math.max(0, Math.min(frames.length - 1, index)));
  buttons();
}

function toggle() {
  following = !following;
  if (following && at >= frames.length - 1) at = -1;
  buttons();
  play();
}

function buttons() {
  const running = following && at < frames.length - 1;
  const word = running ? "Pause" : "Play";
  playButton.textContent = playButton.title = word;
  playButton.setAttribute("aria-label", word);
}

// -- curves -----------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 220, HIGH = 64;
const curves = make("div", "curves", "", root);
const plots = CURVES.map(([key, title, meaning]) => {
  const figure = make("figure", "", "", curves);
  const caption = make("figcaption", "", "", figure);
  make("strong", "", title, caption);
  const value = make("span", "value", "", caption);
  make("span", "meaning", meaning, caption);
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    seek(Math.round(((event.clientX - box.left) / box.width) * Math.max(1, frames.length - 1)));
  });
  figure.append(picture);
  return { key, title, value, picture };
});

function shape(parent, tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  parent.append(node);
  return node;
}

function drawCurves() {
  const last = Math.max(1, frames.length - 1);
  const x = (index) => (index / last) * WIDE;
  plots.forEach((plot) => {
    plot.picture.replaceChildren();
    const values = frames.map((frame) => (frame.upsampled ? null : frame[plot.key]));
    const known = values.filter((value) => value !== null && value !== undefined);
    const top = Math.max(1e-6, ...known);
    const y = (value) => HIGH - 4 - (value / top) * (HIGH - 10);
    view.stages.forEach((stage, index) => {
      const own = frames.flatMap((f, i) => (f.stage === index ? [i] : []));
      if (!own.length) return;
      const [first, end] = [own[0], own[own.length - 1]];
      if (index) shape(plot.picture, "line", { x1: x(first), x2: x(first), y1: 0, y2: HIGH, class: "border" });
      const points = own.filter((i) => values[i] !== null && values[i] !== undefined);
      const path = points.map((i) => `${x(i)},${y(values[i])}`).join(" ");
      shape(plot.picture, "polyline", { points: path, style: `stroke: ${stage.hue}` });
      shape(plot.picture, "rect", { x: x(first), y: HIGH - 3, width: Math.max(1, x(end) - x(first)), height: 3, style: `fill: ${stage.hue}` });
    });
    plot.cursor = shape(plot.picture, "line", { x1: 0, x2: 0, y1: 0, y2: HIGH, class: "cursor" });
    plot.picture.setAttribute("aria-label", known.length
      ? `${plot.title} over ${known.length} steps, from ${known[0]} to ${known[known.length - 1]}, at most ${top}`
      : `${plot.title}: no step yet`);
  });
  marks.replaceChildren();
  frames.forEach((frame, index) => {
    if (!frame.upsampled) return;
    const mark = make("span", "mark", "", marks);
    mark.style.left = `${(index / last) * 100}%`;
    mark.style.setProperty("--hue", view.stages[frame.stage].hue);
    make("span", "", `${frame.stage + 1}`, mark);
  });
}

function point() {
  const last = Math.max(1, frames.length - 1);
  slider.value = Math.max(0, at);
  plots.forEach((plot) => {
    const value = frames[at] && !frames[at].upsampled ? frames[at][plot.key] : null;
    plot.value.textContent = value === null || value === undefined ? "–" : value.toFixed(3);
    plot.cursor?.setAttribute("x1", (at / last) * WIDE);
    plot.cursor?.setAttribute("x2", (at / last) * WIDE);
  });
}

// -- lanes ------------------------------------------------------------------------------------------

// The finest stage's side: what the width has room for, and on a screen that shows the player as a whole
// what its height leaves beside the scrubber and the curves.
function room(heading) {
  const wide = (root.clientWidth - heading) / ROWS.length - GAP;
  const top = root.getBoundingClientRect().top + scrollY;
  const finest = view.stages.at(-1).size;
  const parts = view.stages.reduce((sum, stage) => sum + stage.size, 0) / finest;
  const words = root.scrollHeight - grid.scrollHeight + grid.querySelector(".label").offsetHeight;
  const notes = document.querySelector(".present-notes:not([hidden])")?.offsetHeight ?? 0;
  const high = (innerHeight - top - words - (notes || 40) - 20) / parts;
  const side = Math.max(SIDES[0], Math.min(SIDES[1], wide, high < 2 * SIDES[0] ? wide : high));
  return side > finest ? Math.floor(side / finest) * finest : side; // whole pixels for each number
}

function layout() {
  if (!view || !root.clientWidth) return;
  const finest = view.stages.at(-1).size;
  const tight = root.clientWidth < 480; // pictures come before words
  root.classList.toggle("tight", tight);
  const heading = tight ? NARROW_HEADING : presenting() ? WIDE_HEADING : HEADING;
  const side = room(heading);
  grid.style.gridTemplateColumns = `${heading}px repeat(${ROWS.length}, minmax(0, ${side}px))`;
  tiles.forEach((lane, stage) =>
    Object.values(lane).forEach((tile) => {
      tile.style.width = tile.style.height = `${(side * view.stages[stage].size) / finest}px`;
    }),
  );
}

function place(node, row, column) {
  node.style.gridRow = row;
  node.style.gridColumn = column;
  grid.append(node);
}

function build() {
  grid.replaceChildren();
  tiles = view.stages.map(() => ({}));
  arrows = [];
  heads = view.stages.map((stage, index) => {
    const head = make("div", "head");
    head.style.setProperty("--hue", stage.hue);
    if (index > 0) {
      const arrow = make("div", "arrow", "", head);
      make("span", "sign", "↓", arrow).setAttribute("aria-hidden", "true");
      make("span", "what", "×2, + noise", arrow);
      arrows[index] = arrow;
    }
    make("strong", "", `Stage ${index + 1}`, head);
    make("span", "", `${stage.size}×${stage.size}`, head);
    return head;
  });
  heads.forEach((head, index) => place(head, index + 2, 1));
  ROWS.forEach(([key, title, meaning], row) => {
    const label = make("div", "label");
    make("strong", "", title, label);
    make("span", "", meaning, label);
    place(label, 1, row + 2);
    view.stages.forEach((stage, index) => {
      const tile = make("div", "tile");
      tile.style.setProperty("--hue", stage.hue);
      place(tile, index + 2, row + 2);
      tiles[index][key] = tile;
    });
  });
  layout();
}

function picture(stage, row, source, alt) {
  const tile = tiles[stage][row];
  let image = tile.querySelector("img");
  if (!source) return image?.remove();
  if (!image) image = make("img", "", "", tile);
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = alt;
}

// What the strip at the top of the page lights up, and the numbers and pictures that it opens.
function tell(stage, part) {
  announce(root, stage, part, { view, tiles });
}

function show(index, aloud) {
  at = index;
  const frame = frames[index];
  const number = frame.stage + 1;
  const size = view.stages[frame.stage].size;
  heads.forEach((head, stage) => head.classList.toggle("now", stage === frame.stage));
  arrows.forEach((arrow, stage) =>
    arrow.classList.toggle("now", stage === frame.stage && (frame.upsampled || frame.step === 0)),
  );
  frame.lanes.forEach((lane, stage) => {
    const where = lane.step === undefined ? "" :
      `stage ${stage + 1}, ${view.stages[stage].size} by ${view.stages[stage].size}, step ${lane.step} of ${lane.steps}`;
    picture(stage, "noisy", lane.noisy, `Noisy latent of ${where}`);
    picture(stage, "clean", lane.clean, `Clean estimate of ${where}`);
    picture(stage, "decoded", lane.decoded, `Decoded estimate of ${where}`);
  });
  point();
  const t = frame.t.toFixed(2);
  let text;
  if (frame.upsampled) {
    text = `Into stage ${number}: the latent is upsampled to ${size}×${size} …`;
  } else if (frame.step === 0 && frame.stage > 0) {
    text = `Into stage ${number}: … and gets new noise (σ = ${view.stages[frame.stage].sigma}), t = ${t}`;
  } else if (frame.step === 0) {
    text = `Stage 1 starts from pure noise, t = ${t}`;
  } else {
    text = `Stage ${number}, flow step ${frame.step} of ${frame.steps}, t = ${t}`;
  }
  slider.setAttribute("aria-valuetext", text);
  say(text, aloud && frame.step === 0 && !frame.upsampled);
  tell(frame.stage, frame.upsampled ? "up" : frame.step === 0 ? "map" : "flow");
  if (view.done && index === frames.length - 1) markImage("");
}

function say(text, aloud) {
  status.textContent = text;
  if (aloud) spoken.textContent = text;
}

// -- taking over what the server sends -----------------------------------------------------------------

// Resolves once the frame's pictures are decoded, so that no tile is ever blank.
function load(frame) {
  const sources = ROWS.map(([row]) => frame[row]).filter(Boolean);
  return Promise.allSettled(
    sources.map((source) => {
      const image = new Image();
      image.src = source;
      return image.decode();
    }),
  );
}

async function play() {
  if (looping) return;
  looping = true;
  while (following && at < frames.length - 1) {
    const index = at + 1;
    const frame = frames[index];
    await frame.loaded;
    if (stopped || !following || frames[index] !== frame || at !== index - 1) continue;
    // In a talk every stage waits for the speaker.
    if (frame.upsampled && gate !== index && presenting()) {
      gate = index;
      following = false;
      break;
    }
    show(index, true);
    buttons();
    if (!calm.matches) await new Promise((resolve) => setTimeout(resolve, PACE));
  }
  looping = false;
  buttons();
  if (view.done && !stopped && following) {
    heads.forEach((head) => head.classList.remove("now"));
    arrows.forEach((arrow) => arrow.classList.remove("now"));
    tell(view.stages.length, "decode");
    say(`Done: ${view.title}`, true);
  }
}

// The image of the run before stays in sight, but "stale"; a finished one is "withheld" until the player
// has come to its end.
function markImage(how) {
  const picture = document.querySelector(`#${name}-picture`);
  ["stale", "withheld"].forEach((mark) => picture?.classList.toggle(mark, mark === how));
}

function push(frame) {
  const before = frames.length ? frames[frames.length - 1].lanes : view.stages.map(() => ({}));
  const lanes = before.map((lane) => ({ ...lane }));
  const lane = lanes[frame.stage];
  Object.assign(lane, { step: frame.step, steps: frame.steps });
  ROWS.forEach(([row]) => { if (frame[row]) lane[row] = frame[row]; });
  frames.push({ ...frame, lanes });
}

function receive() {
  const newest = props.value;
  if (!newest || !newest.stages || stopped) return;
  const other = !view || newest.run !== view.run;
  if (newest.done && (other || !view.done)) markImage("withheld");
  view = newest;
  if (view.frames.length) root.classList.remove("waiting");
  if (other) restart(view.frames.length ? "" : "The first image is on its way …");
  for (; received < view.frames.length; received++) {
    const frame = { ...view.frames[received] };
    frame.loaded = load(frame);
    // Nearest-neighbour upsampling is the last latent of the stage before, drawn larger.
    if (frame.step === 0 && frame.stage > 0) {
      const { noisy } = frames[frames.length - 1];
      push({ ...frame, noisy, clean: null, decoded: null, upsampled: true });
    }
    push(frame);
  }
  slider.max = Math.max(0, frames.length - 1);
  drawCurves();
  point();
  buttons();
  play();
}

function restart(text) {
  frames = [];
  received = 0;
  at = gate = -1;
  following = true;
  build();
  drawCurves();
  buttons();
  say(text, true);
}

document.addEventListener("ecar:wait", (event) => {
  if (event.detail !== name) return;
  stopped = false;
  view = { ...view, run: null, frames: [], done: false };
  restart("Waiting for the model …");
  markImage("stale");
  root.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
});
awaits(root, status, (cut) => {
  if (view.done) return;
  markImage("");
  if (!cut) return receive(); // a sentence came in place of an image: the one before stands
  stopped = true;
  frames = [];
  at = -1;
  say("Stopped.", true);
});

// From a talk's keys, and from the tour, which shows a stage at its end (-1: the last one).
document.addEventListener("ecar:drive", ({ detail }) => {
  if (!root.offsetParent) return;
  if (detail === "toggle") toggle();
  else if (detail === "on") seek(at + 1);
  else if (detail === "back") seek(at - 1);
  else {
    const stage = (detail + view.stages.length) % view.stages.length;
    seek(frames.findLastIndex((frame) => frame.stage === stage));
  }
});

new ResizeObserver(layout).observe(root);
addEventListener("resize", layout);
watch("value", receive);
receive();
