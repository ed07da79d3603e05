// The strip of stages. The server sends a view that grows (see stream.py); this shows its frames one
// after another, so that a run that took half a second can be followed by eye. `element`, `props` and
// `watch` come from Gradio's HTML component.

const ROWS = [
  ["noisy", "Noisy latent", "what the flow head carries towards the image"],
  ["clean", "Clean estimate", "where it would land from here"],
  ["decoded", "Decoded", "that estimate, through the tokenizer"],
];
const LARGEST = 176; // pixels of the finest stage, where there is room
const NARROWEST = 58; // pixels that a column needs for its heading
const ARROW = 100; // pixels between two columns, enough for "upsample ×2"
const BARE_ARROW = 24;
const PACE = 70; // milliseconds a frame stays, at least
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const root = element.querySelector(".strip");
let view = null; // the newest view
let tiles = []; // tiles[stage][row]
let arrows = []; // arrows[stage]: the one that leads into it
let heads = [];
let frames = []; // what is to be shown, the upsampling before each new stage included
let received = 0; // frames of the view already taken over
let shown = 0; // frames already shown
let playing = false;
let stopped = false; // what still arrives of a stopped run is not shown

function make(tag, className, text, parent) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const status = make("p", "status", "", root);
const spoken = make("p", "spoken", "", root);
spoken.setAttribute("aria-live", "polite");
const grid = make("div", "grid", "", root);

function say(text, aloud) {
  status.textContent = text;
  if (aloud) spoken.textContent = text;
}

// The finest stage's side at which all columns, with arrows of this width, fit beside each other.
function fit(arrow) {
  const stages = view.stages;
  const finest = stages[stages.length - 1].size;
  const width = (side) =>
    stages.reduce((sum, stage) => sum + Math.max(NARROWEST, (side * stage.size) / finest), 0) +
    arrow * (stages.length - 1);
  let side = LARGEST;
  while (side > 32 && width(side) > root.clientWidth) side -= 1;
  return side;
}

function layout() {
  if (!view || !root.clientWidth) return;
  const stages = view.stages;
  const finest = stages[stages.length - 1].size;
  // Pictures come before words: where both do not fit, an arrow stands without its words.
  const arrow = fit(ARROW) < 0.75 * LARGEST ? BARE_ARROW : ARROW;
  root.classList.toggle("tight", arrow === BARE_ARROW);
  const side = fit(arrow);
  const columns = stages.map((stage) => {
    const own = (side * stage.size) / finest;
    return [own, `${Math.max(NARROWEST, own)}px`];
  });
  grid.style.gridTemplateColumns = columns.map(([, column]) => column).join(` ${arrow}px `);
  tiles.forEach((column, stage) =>
    Object.values(column).forEach((tile) => {
      tile.style.width = tile.style.height = `${columns[stage][0]}px`;
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
    make("strong", "", `Stage ${index + 1}`, head);
    make("span", "", `${stage.size}×${stage.size}`, head);
    place(head, 1, 2 * index + 1);
    return head;
  });
  ROWS.forEach(([key, name, meaning], row) => {
    const label = make("div", "label");
    make("strong", "", name, label);
    make("span", "", meaning, label);
    place(label, 2 * row + 2, "1 / -1");
    view.stages.forEach((stage, index) => {
      const tile = make("div", "tile");
      tile.style.setProperty("--hue", stage.hue);
      place(tile, 2 * row + 3, 2 * index + 1);
      tiles[index][key] = tile;
      if (row === 0 && index > 0) {
        const arrow = make("div", "arrow");
        arrow.style.setProperty("--hue", stage.hue);
        make("span", "what", "upsample ×2", arrow);
        make("span", "sign", "→", arrow).setAttribute("aria-hidden", "true");
        make("span", "what", "+ noise", arrow);
        place(arrow, 3, 2 * index);
        arrows[index] = arrow;
      }
    });
  });
  layout();
}

function url(name) {
  const base = window.gradio_config?.root ?? "";
  return `${base}/gradio_api/file=${view.folder}/${name}`;
}

function picture(stage, row, name, alt) {
  const tile = tiles[stage][row];
  let image = tile.querySelector("img");
  if (!image) image = make("img", "", "", tile);
  image.src = url(name);
  image.alt = alt;
}

function show(frame) {
  const number = frame.stage + 1;
  const size = view.stages[frame.stage].size;
  const where = `stage ${number}, ${size} by ${size}, step ${frame.step} of ${frame.steps}`;
  heads.forEach((head, index) => head.classList.toggle("now", index === frame.stage));
  arrows.forEach((arrow, index) =>
    arrow.classList.toggle("now", index === frame.stage && (frame.upsampled || frame.step === 0)),
  );
  picture(frame.stage, "noisy", frame.noisy, `Noisy latent of ${where}`);
  if (frame.clean) picture(frame.stage, "clean", frame.clean, `Clean estimate of ${where}`);
  if (frame.decoded) picture(frame.stage, "decoded", frame.decoded, `Decoded estimate of ${where}`);
  const t = frame.t.toFixed(2);
  if (frame.upsampled) {
    say(`Into stage ${number}: the latent is upsampled to ${size}×${size} …`);
  } else if (frame.step === 0 && frame.stage > 0) {
    const { sigma } = view.stages[frame.stage];
    say(`Into stage ${number}: … and gets new noise (σ = ${sigma}), t = ${t}`, true);
  } else if (frame.step === 0) {
    say(`Stage 1 starts from pure noise, t = ${t}`, true);
  } else {
    say(`Stage ${number}, flow step ${frame.step} of ${frame.steps}, t = ${t}`);
  }
}

// Resolves once the frame's files are here (or have failed), so that no tile is ever blank.
function load(frame) {
  const files = ROWS.map(([row]) => frame[row]).filter(Boolean);
  return Promise.allSettled(
    files.map((file) => {
      const image = new Image();
      image.src = url(file);
      return image.decode();
    }),
  );
}

async function play() {
  if (playing) return;
  playing = true;
  while (shown < frames.length) {
    const frame = frames[shown++];
    await frame.loaded;
    if (stopped || frame.run !== view.run) continue; // or another run has begun meanwhile
    show(frame);
    if (!calm.matches) await new Promise((resolve) => setTimeout(resolve, PACE));
  }
  playing = false;
  if (view.done && !stopped) {
    heads.forEach((head) => head.classList.remove("now"));
    arrows.forEach((arrow) => arrow.classList.remove("now"));
    say(`Done: ${view.title}`, true);
  }
}

// The image of the run before stays in sight, but is marked as old.
function markImage(old) {
  document.querySelector("#picture")?.classList.toggle("stale", old);
}

function receive() {
  const newest = props.value;
  if (!newest || !newest.stages || stopped) return;
  if (newest.done) markImage(false);
  const other = !view || newest.run !== view.run;
  view = newest;
  if (other) restart(view.frames.length ? "" : "The first image is on its way …");
  for (; received < view.frames.length; received++) {
    const frame = { ...view.frames[received], run: view.run };
    frame.loaded = load(frame);
    // Nearest-neighbour upsampling is the last latent of the stage before, drawn larger.
    if (frame.step === 0 && frame.stage > 0) {
      const { noisy } = frames[frames.length - 1];
      frames.push({ ...frame, noisy, clean: null, decoded: null, upsampled: true });
    }
    frames.push(frame);
  }
  play();
}

function restart(text) {
  frames = [];
  received = shown = 0;
  build();
  say(text, true);
}

document.addEventListener("ecar:wait", () => {
  stopped = false;
  view = { ...view, run: null, frames: [], done: false };
  restart("Waiting for the model …");
  markImage(true);
  root.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
});
document.addEventListener("ecar:stop", () => {
  stopped = true;
  frames = [];
  shown = 0;
  markImage(false);
  say("Stopped.", true);
});

new ResizeObserver(layout).observe(root);
watch("value", receive);
receive();
