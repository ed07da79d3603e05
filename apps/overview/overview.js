// All classes side by side, growing. `element`, `props`, `trigger` and `watch` come from Gradio's HTML
// component; the frames come from overview/runs.py, each one picture with all classes in a row.

const PACE = 170; // milliseconds a frame stays
const LINGER = 2500; // and the finished one, where it plays again
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const root = element.querySelector(".overview");

const status = make("p", "status", "", root);
status.setAttribute("aria-live", "polite");
const images = make("div", "images", "", root);
const transport = make("div", "transport", "", root);
const play = make("button", "", "", transport);
play.type = "button";
const slider = make("input", "", "", transport);
Object.assign(slider, { type: "range", min: 0, max: 0, step: 1, value: 0 });
slider.setAttribute("aria-label", "Moment of all runs");
const lanes = make("div", "lanes", "", root);

let view = null;
let tiles = [];
let at = -1;
let playing = !calm.matches;

function build() {
  images.replaceChildren();
  tiles = view.classes.map((name) => {
    const tile = make("button", "tile", "", images);
    tile.type = "button";
    tile.title = `Look inside: ${name}`;
    const picture = make("span", "picture", "", tile);
    make("span", "name", name, tile);
    tile.addEventListener("click", () => trigger("select", { name }));
    return picture;
  });
  lanes.replaceChildren();
  view.stages.forEach((stage, number) => {
    const lane = make("span", "lane", `Stage ${number + 1}: ${stage.side}×${stage.side}`, lanes);
    lane.style.setProperty("--hue", stage.hue);
  });
}

function draw(index) {
  const frame = view.frames[index];
  if (!frame) return;
  at = index;
  tiles.forEach((picture, number) => {
    picture.style.backgroundImage = `url(${frame.sprite})`;
    picture.style.backgroundSize = `${tiles.length * 100}% 100%`;
    picture.style.backgroundPosition = `${tiles.length > 1 ? (number / (tiles.length - 1)) * 100 : 0}% 0`;
  });
  images.style.setProperty("--hue", view.stages[frame.stage].hue);
  if (view.done && index === view.frames.length - 1) announce(root, view.stages.length, "decode");
  else announce(root, frame.stage, frame.step ? "flow" : "map");
  [...lanes.children].forEach((lane, number) => {
    if (number === frame.stage) lane.setAttribute("aria-current", "step");
    else lane.removeAttribute("aria-current");
  });
  slider.value = index;
  slider.setAttribute("aria-valuetext", `Stage ${frame.stage + 1}, step ${frame.step} of ${frame.steps}, t ${frame.t}`);
}

function tick() {
  let pause = PACE;
  if (view && playing && root.offsetParent) {
    const last = view.frames.length - 1;
    if (at < last) draw(at + 1);
    else if (view.done && !calm.matches && looped < 2) {
      looped += 1;
      draw(0);
    }
    if (at === last && view.done) pause = LINGER;
  }
  setTimeout(tick, pause);
}
let looped = 0;

function say() {
  play.textContent = playing ? "❚❚ Pause" : "▶ Play";
  status.textContent = view.done
    ? `${view.classes.length} classes from seed ${view.seed}, in ${view.seconds.toFixed(2)} s. Press an image to look inside it.`
    : `${view.classes.length} classes from seed ${view.seed}: growing …`;
}

play.addEventListener("click", () => {
  if (!view) return;
  playing = !playing;
  looped = 0;
  if (playing && at >= view.frames.length - 1) at = -1;
  say();
});
// From a talk's keys.
document.addEventListener("ecar:drive", ({ detail }) => {
  if (!root.offsetParent || !view) return;
  if (detail === "toggle") return play.click();
  playing = false;
  say();
  draw(Math.max(0, Math.min(view.frames.length - 1, at + (detail === "on" ? 1 : -1))));
});
slider.addEventListener("input", () => {
  playing = false;
  say();
  draw(Number(slider.value));
});

function show() {
  root.classList.remove("waiting");
  const next = props.value;
  transport.style.visibility = next ? "" : "hidden";
  if (!next) {
    status.textContent = "The first images are on their way …";
    return;
  }
  const anew = !view || view.seed !== next.seed || next.frames.length < view.frames.length;
  view = next;
  if (tiles.length !== view.classes.length) build();
  slider.max = Math.max(0, view.frames.length - 1);
  if (anew) {
    at = -1;
    looped = 0;
    playing = !calm.matches;
  }
  if (calm.matches || (!playing && anew)) draw(view.frames.length - 1);
  say();
}

// An image was chosen, and the Generate tab has its class and seed.
document.addEventListener("ecar:press", ({ detail }) => press(detail));
awaits(root, status, (cut) => (cut ? (status.textContent = "Stopped.") : show()));
watch("value", show);
show();
tick();
