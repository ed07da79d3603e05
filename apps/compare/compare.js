// Two finished runs, walked through together along one axis: the seconds that each took, or its
// operations. The server sends both once; nothing is asked of it again. `element`, `props` and
// `watch` come from Gradio's HTML component.

const AXES = { seconds: ["Seconds", "s"], gflop: ["GFLOP", "GFLOP"] };
const SHORTEST = 3, LONGEST = 12; // seconds that playing the whole axis takes
const FINE = 1000; // places of the slider
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const root = element.querySelector(".lanes");
const name = root.dataset.name;
let view = null;
let lanes = []; // per lane: what it holds and where it is drawn
let axis = "seconds";
let end = 1; // of the axis
let at = 0; // the place on the axis
let playing = false;

const idle = props.value.status;
const status = make("p", "status", "", root);
const spoken = make("p", "spoken", "", root);
spoken.setAttribute("aria-live", "polite");
const stage = make("div", "stage", "", root); // hidden until there is something to show
stage.hidden = true;
const choice = make("fieldset", "", "", stage);
make("legend", "", "Axis", choice);
for (const [key, [title]] of Object.entries(AXES)) {
  const label = make("label", "", "", choice);
  const radio = make("input", "", "", label);
  Object.assign(radio, { type: "radio", name: `${name}-axis`, value: key, checked: key === axis });
  label.append(key === "seconds" ? "Wall clock (seconds)" : "Operations (GFLOP)");
  radio.addEventListener("change", () => turnTo(key));
}
const both = make("div", "both", "", stage);
const axes = make("div", "axes", "", stage);
const transport = make("div", "transport", "", stage);
const pace = make("p", "pace", "", stage);

function button(sign, label, act) {
  const node = make("button", "", sign, transport);
  node.type = "button";
  node.setAttribute("aria-label", label);
  node.title = label;
  node.addEventListener("click", act);
  return node;
}
button("|◀", "Start of both runs", () => seek(0));
button("‹", "One event back", () => step(-1));
const playButton = button("Play", "Play", toggle);
button("›", "One event on", () => step(1));
button("▶|", "End of both runs", () => seek(end));
const slider = make("input", "", "", transport);
Object.assign(slider, { type: "range", min: 0, max: FINE, step: 1, value: 0 });
slider.setAttribute("aria-label", "Place on the axis");
slider.addEventListener("input", () => seek((slider.value / FINE) * end));
transport.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target === slider) toggle();
  else if (event.key === "ArrowLeft" || event.key === "ArrowDown") step(-1);
  else if (event.key === "ArrowRight" || event.key === "ArrowUp") step(1);
  else return;
  event.preventDefault();
});

// -- moving along the axis --------------------------------------------------------------------------

function show(place, aloud) {
  at = Math.max(0, Math.min(end, place));
  slider.value = Math.round((at / end) * FINE);
  lanes.forEach(drawLane);
  const text = `${number(at)} ${AXES[axis][1]}: ${lanes.map((lane) => `${lane.name} ${lane.short}`).join(", ")}`;
  status.textContent = text;
  slider.setAttribute("aria-valuetext", text);
  if (aloud) spoken.textContent = text;
  tellPlace();
}

function seek(place) {
  playing = false;
  show(place, false);
  word();
}

function step(direction) {
  const places = [...new Set([0, ...lanes.flatMap((lane) => lane.frames.map((f) => f[axis])), end])];
  places.sort((a, b) => a - b);
  const next = direction > 0
    ? places.find((place) => place > at + 1e-9)
    : places.reverse().find((place) => place < at - 1e-9);
  seek(next ?? (direction > 0 ? end : 0));
}

function duration() {
  return axis === "seconds" ? Math.max(SHORTEST, Math.min(LONGEST, end)) : 6;
}

function toggle() {
  playing = !playing;
  if (playing && at >= end) show(0, false);
  word();
  if (playing) run();
}

function run() {
  let before = null;
  const go = (now) => {
    if (!playing) return;
    const elapsed = before === null ? 0 : Math.min(0.25, (now - before) / 1000);
    before = now;
    show(at + (elapsed / duration()) * end, false);
    if (at >= end) {
      playing = false;
      word();
      show(end, true);
    } else requestAnimationFrame(go);
  };
  requestAnimationFrame(go);
}

function word() {
  const text = playing ? "Pause" : "Play";
  playButton.textContent = playButton.title = text;
  playButton.setAttribute("aria-label", text);
}

function turnTo(key) {
  const share = at / end;
  axis = key;
  end = Math.max(1e-9, ...lanes.map((lane) => lane[axis]));
  drawAxes();
  const speed = end / duration();
  pace.textContent = axis === "seconds"
    ? `Plays at ${Math.abs(speed - 1) < 0.01 ? "real speed" : `${speed.toPrecision(2)} times real speed`}.`
    : `Plays ${speed.toPrecision(2)} GFLOP per second.`;
  show(share * end, false);
}

function number(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

// -- drawing ----------------------------------------------------------------------------------------


function tile(className, title, parent) {
  const figure = make("figure", className, "", parent);
  const box = make("div", "tile", "", figure);
  const caption = make("figcaption", "", title, figure);
  return { box, caption };
}

function build() {
  both.replaceChildren();
  lanes = view.lanes.map((data) => {
    const node = make("div", "lane", "", both);
    node.setAttribute("role", "group");
    node.setAttribute("aria-label", data.name);
    make("span", "", data.trained ? `steps ${data.steps}` : `steps ${data.steps}, untrained: timing only`,
      make("h2", "", data.name, node));
    const where = make("p", "where", "", node);
    const pair = make("div", "pair", "", node);
    const clean = tile("clean", "", pair);
    const noisy = tile("noisy", "Noisy latent", pair);
    return { ...data, node, where, clean, noisy };
  });
}

function drawAxes() {
  axes.replaceChildren();
  lanes.forEach((lane) => {
    const row = make("div", "bar-row", "", axes);
    make("span", "", lane.name, row);
    const bar = make("div", "bar", "", row);
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", `${lane.name} takes ${number(lane[axis])} of ${number(end)} ${AXES[axis][1]}`);
    let left = 0;
    lane.hues.forEach((hue, index) => {
      const own = lane.frames.filter((frame) => frame.stage === index);
      const right = own[own.length - 1][axis];
      const part = make("div", "part", "", bar);
      part.style.setProperty("--hue", hue);
      part.style.left = `${(left / end) * 100}%`;
      part.style.width = `${((right - left) / end) * 100}%`;
      if (((right - left) / end) * bar.clientWidth > 18) {
        make("span", "", lane.hues.length > 1 ? `${index + 1}` : `${lane.steps} steps`, part);
      }
      left = right;
    });
    lane.cursor = make("div", "cursor", "", bar);
  });
  const scale = make("div", "scale", "", axes);
  [0, 0.25, 0.5, 0.75, 1].forEach((share) =>
    make("span", "", `${number(share * end)}${share === 1 ? ` ${AXES[axis][1]}` : ""}`, scale));
}

function drawLane(lane) {
  // Of frames at one place the last counts: on the axis of operations several may share it.
  const reached = lane.frames.filter((frame) => frame[axis] <= at + 1e-9);
  const frame = reached[reached.length - 1];
  const done = reached.length === lane.frames.length;
  const many = lane.hues.length > 1;
  lane.frame = frame;
  lane.done = done;
  lane.node.classList.toggle("through", done);
  lane.cursor.style.left = `${(Math.min(at, lane[axis]) / end) * 100}%`;
  lane.short = done ? "done" : frame
    ? `${many ? `stage ${frame.stage + 1}, ` : ""}step ${frame.step} of ${frame.steps}`
    : "not begun";
  const size = frame ? `${frame.side}×${frame.side}` : "";
  if (done) lane.where.textContent = `Done after ${number(lane.seconds)} s and ${number(lane.gflop)} GFLOP`;
  else if (frame) lane.where.textContent = `${many ? `Stage ${frame.stage + 1}, step` : "Step"} ${frame.step} of ${frame.steps}, latent ${size}`;
  else lane.where.textContent = many ? "The transformer makes the first token map" : "Not begun";
  const hue = frame ? lane.hues[frame.stage] : lane.hues[0];
  lane.node.style.setProperty("--hue", hue);
  if (!lane.trained) {
    if (!lane.clean.box.firstChild) {
      make("span", "none", "Untrained: timing only, no image", lane.clean.box);
      lane.noisy.box.parentNode.hidden = true;
    }
    return;
  }
  lane.clean.caption.textContent = done ? "Finished image"
    : !frame || frame.decoded ? "Clean estimate, decoded" : "Clean estimate, latent's colours";
  picture(lane.clean.box, frame?.clean, `${lane.name}: ${lane.clean.caption.textContent.toLowerCase()}, ${lane.short}`);
  lane.noisy.caption.textContent = done ? "Finished latent" : "Noisy latent";
  picture(lane.noisy.box, frame?.noisy, `${lane.name}: ${lane.noisy.caption.textContent.toLowerCase()}, ${lane.short}`);
}

function picture(box, source, alt) {
  let image = box.querySelector("img");
  if (!source) return image?.remove();
  if (!image) image = make("img", "", "", box);
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = alt;
}

// The strip at the top of the page shows where E-CAR is.
function tellPlace() {
  const { frame, done, hues } = lanes[0];
  const part = done ? "decode" : !frame || frame.step === 0 ? "map" : "flow";
  announce(root, done ? hues.length : frame?.stage ?? 0, part);
}

// -- the finished images ----------------------------------------------------------------------------

// Gradio's slider over two images has neither words nor keys: give it both.
function dress() {
  const box = document.querySelector("#compare-pictures");
  const handle = box?.querySelector("[data-testid=slider] > div, .outer");
  const images = box?.querySelectorAll("img") ?? [];
  lanes.forEach((lane, index) => {
    if (images[index] && view) images[index].alt = `Finished image of ${lane.name}: ${view.title}`;
  });
  if (!handle || handle.dataset.dressed) return;
  handle.dataset.dressed = "yes";
  handle.tabIndex = 0;
  handle.setAttribute("role", "slider");
  handle.setAttribute("aria-label", "Border between the images of E-CAR and DiT");
  handle.setAttribute("aria-valuemin", 0);
  handle.setAttribute("aria-valuemax", 100);
  const share = () => {
    const own = handle.getBoundingClientRect(), frame = box.querySelector("img").getBoundingClientRect();
    return (own.left + own.width / 2 - frame.left) / Math.max(1, frame.width);
  };
  const told = () => handle.setAttribute("aria-valuenow", Math.round(100 * Math.max(0, Math.min(1, share()))));
  handle.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    const own = handle.getBoundingClientRect(), width = box.querySelector("img").getBoundingClientRect().width;
    const x = own.left + own.width / 2, y = own.top + own.height / 2;
    const drag = (kind, target, clientX) =>
      target.dispatchEvent(new MouseEvent(kind, { view: window, bubbles: true, cancelable: true, clientX, clientY: y }));
    drag("mousedown", handle, x);
    drag("mousemove", window, x + 0.05 * way * width);
    drag("mouseup", window, x + 0.05 * way * width);
    requestAnimationFrame(told);
  });
  told();
}

// -- taking over what the server sends --------------------------------------------------------------

async function receive() {
  const newest = props.value;
  if (!newest) return;
  if (!newest.lanes) {
    if (!stopping(name)) say(newest.status);
    return;
  }
  if (view?.run === newest.run) return;
  root.classList.remove("waiting");
  view = newest;
  build();
  stage.hidden = false;
  at = 0;
  turnTo(axis);
  const sources = view.lanes.flatMap((lane) => lane.frames.flatMap((f) => [f.clean, f.noisy]));
  const loaded = sources.filter(Boolean).map((source) => {
    const image = new Image();
    image.src = source;
    return image.decode();
  });
  const run_ = view.run;
  await Promise.allSettled(loaded);
  if (view.run !== run_) return;
  if (calm.matches) {
    seek(end);
    spoken.textContent = status.textContent;
  } else if (!playing) toggle();
}

function say(text) {
  status.textContent = text;
  spoken.textContent = text;
}

document.addEventListener("ecar:wait", (event) => {
  if (event.detail !== name) return;
  playing = false;
  stage.hidden = true;
});
awaits(root, status, (cut) => {
  if (cut) say("Stopped.");
  else if (view) (stage.hidden = false), show(at, true);
  else say(idle);
});
new MutationObserver(dress).observe(element.closest(".gradio-container") ?? document.body, {
  childList: true,
  subtree: true,
});

watch("value", receive);
receive();
