// The page: what is chosen, what is made of it, and what is shown.

import { LAST_SEED, readAddress, seedOf, VIEWS, writeAddress } from "./address.js";
import { Cells } from "./cells.js";
import { Cost } from "./cost.js";
import { byId, make } from "./dom.js";
import { Model, obstacle } from "./model.js";
import { recordedRun } from "./pictures.js";
import { planOf, Player } from "./player.js";
import { AllView, OneView, PaintedView } from "./views.js";
import { explain } from "./words.js";

const [MOST_CLASSES, SEEDS] = [4, 2]; // a painting is completed as these many, each with so many seeds
const MEGA = 1e6;
const FORMAT = 1; // of ecar export onnx

const hindrance = obstacle();
const model = hindrance ? null : new Model();
const [lab, manifest] = await Promise.all(["lab.json", "model/manifest.json"].map(told));
if (manifest.format !== FORMAT) {
  throw new Error(`model/manifest.json has format ${manifest.format}, this page reads ${FORMAT}`);
}
const names = manifest.class_names;
const paintable = manifest.encoder ? manifest.stages.slice(0, -1).map(({ resolution }) => resolution) : [];
const here = VIEWS.filter((view) => view !== "paint" || paintable.length);
const chosen = readAddress(lab.first, names, here);
let run = null; // what is shown
let recorded = null;
let ready = false;
let busy = false;

// -- parts of the page ------------------------------------------------------------------------------

const hall = byId("shown");
const panels = Object.fromEntries(VIEWS.map((view) => [view, make("div", hall, { class: "panel" })]));
const views = {
  one: new OneView(panels.one, { manifest, lab, onSave }),
  all: new AllView(panels.all, { manifest, onPick }),
};
let cells = null;
if (paintable.length) {
  const left = make("div", panels.paint, { class: "easel" });
  cells = new Cells(left, { beginnings: lab.beginnings, sides: paintable, onPaint: generate });
  const picks = make("fieldset", left, { class: "picks" });
  make("legend", picks, { text: "Completed as" });
  names.forEach((name, label) => {
    const one = make("label", picks);
    const box = make("input", one, { type: "checkbox", value: label });
    box.checked = lab.first.painted.includes(label);
    box.addEventListener("change", generate);
    one.append(` ${name}`);
  });
  views.paint = new PaintedView(panels.paint, { manifest, lab });
} else byId("views").lastElementChild.remove();

const cost = new Cost(byId("cost"), lab.cost, lab.hues);
const player = new Player(show);
names.forEach((name, label) => make("option", byId("class"), { text: name, value: label }));
byId("about").textContent = `Model ${manifest.checkpoint}, ${(lab.cost.parameters / MEGA).toFixed(1)} M `
  + `parameters, ${names.length} classes, images of ${lab.image_size} pixels. Kit ${manifest.kit}.`;
if (lab.docs) { // beside which it stands
  byId("docs").href = lab.docs;
  byId("docs").hidden = false;
}

// -- what is chosen -----------------------------------------------------------------------------------

// The controls say what is chosen, and only what belongs to the view is there.
function lay() {
  for (const input of byId("views").querySelectorAll("input")) input.checked = input.value === chosen.view;
  for (const view of VIEWS) panels[view].hidden = view !== chosen.view;
  document.body.dataset.view = chosen.view;
  byId("class-field").hidden = chosen.view !== "one";
  byId("class").value = chosen.label;
  byId("seed").value = chosen.seed;
  const can = ready || busy;
  byId("go").disabled = !can;
  byId("go").textContent = busy ? "Stop" : chosen.view === "paint" ? "Complete it" : "Generate";
}

// -- runs --------------------------------------------------------------------------------------------

function wishOf(view) {
  const all = names.map((_, label) => label);
  if (view === "one") return { labels: [chosen.label], seeds: [chosen.seed] };
  if (view === "all") return { labels: all, seeds: all.map(() => chosen.seed) };
  const classes = [...panels.paint.querySelectorAll(".picks input:checked")].map((box) => Number(box.value));
  const seeds = Array.from({ length: SEEDS }, (_, n) => (chosen.seed + n) % 2 ** 32);
  return {
    labels: classes.flatMap((label) => seeds.map(() => label)),
    seeds: classes.flatMap(() => seeds),
    painted: { colours: cells.colours, stage: paintable.indexOf(cells.side) },
  };
}

let latest = 0;
async function generate() {
  if (!ready) return;
  const view = chosen.view;
  const wish = wishOf(view);
  const images = wish.labels.length;
  if (view === "paint" && (!images || images > MOST_CLASSES * SEEDS)) {
    return say(`${images / SEEDS} classes are chosen: choose 1 to ${MOST_CLASSES} that the painting is to become.`);
  }
  say(chosen.remarks.splice(0).join(" ") || null);
  writeAddress(chosen.view, names[chosen.label], chosen.seed);
  const id = ++latest;
  busy = true;
  document.body.dataset.state = "busy";
  lay();
  const fresh = { ...wish, view, frames: [], seconds: null, stopped: false, pick: 0 };
  fresh.plan = planOf(manifest, wish.painted ? wish.painted.stage + 1 : 0);
  try {
    const seconds = await model.run(wish, {
      onHanded: (pictures) => id === latest && views.paint.showHanded(pictures),
      onFrame(frame) {
        if (id !== latest) return;
        if (!fresh.frames.length) take(fresh);
        fresh.frames.push(frame);
        player.push();
      },
    });
    fresh.seconds = seconds;
    fresh.stopped = seconds === null;
    if (id === latest) document.body.dataset.state = seconds === null ? "stopped" : "done";
  } catch (error) {
    if (id === latest) failed(error.message);
  }
  if (id !== latest) return;
  busy = false;
  lay();
  if (run === fresh) show(player.index);
  if (ready) tell(fresh.stopped ? "Stopped." : engine);
}

// A run is what is shown from now on.
function take(next) {
  run = next;
  player.begin(next.plan, lab.hues);
}

function show(index) {
  const moment = run.plan[index];
  if (!run.frames[index]) return;
  if (run.view === "paint" || run.view === chosen.view || run.labels.length === names.length) {
    if (!(chosen.view === "paint") || run.painted) views[chosen.view].show(run, index);
  }
  if (run.frames[index].final && !run.recorded) performance.mark("image"); // the first one is what a visitor waits for
  const { where, words } = explain(manifest, moment, run.painted?.stage);
  byId("where").textContent = where;
  byId("where").style.setProperty("--hue", lab.hues[moment.stage]);
  byId("words").textContent = words;
  byId("moment").setAttribute("aria-valuetext", `${where}, ${index + 1} of ${run.plan.length}`);
  cost.show(moment, run);
  const name = run.view === "one" || chosen.view === "one" ? names[run.labels[run.pick]] : "all";
  byId("command").textContent = run.painted
    ? "ecar app   # the tab Paint a stage"
    : `ecar sample --checkpoint ${quoted(manifest.checkpoint)} --classes ${quoted(name)} --seed ${run.seeds[0]} --dtype float32`;
  byId("same-words").textContent = run.painted ? "" : "Same seed, same noise, same image.";
}

// A word as a shell takes it.
function quoted(word) {
  return /^[\w.,/-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// Another view: what is shown stays if it can be seen there, or else it is made.
function turnTo(view) {
  chosen.view = view;
  writeAddress(view, names[chosen.label], chosen.seed);
  lay();
  const suits = run && (view === run.view || (view === "one" && run.labels.length === names.length && !run.painted));
  if (suits && run.frames.length) {
    if (view === "one") run.pick = run.labels.indexOf(chosen.label);
    return show(player.index);
  }
  if (!ready && recorded && view !== "paint") showRecorded();
  else generate();
}

function onPick(image) {
  chosen.label = run.labels[image];
  turnTo("one");
}

function onSave(canvas) {
  const link = make("a", null, { download: `${names[run.labels[run.pick]]}-${run.seeds[run.pick]}.png` });
  link.href = canvas.toDataURL("image/png");
  link.click();
}

// -- words about the whole ---------------------------------------------------------------------------

let engine = "";
function tell(words) {
  byId("engine").textContent = words;
}

function say(words) {
  byId("banner").hidden = words === null;
  byId("banner").textContent = words ?? "";
}

// The model does not run: what the build recorded is shown instead.
function failed(words) {
  const instead = recorded ? " What you see was recorded when this page was built: seed "
    + `${lab.recorded.seed} of each class. Painting needs the model.` : "";
  say(words + instead);
  tell(recorded ? "Recorded runs" : "The model does not run here");
  byId("progress").hidden = true;
  document.body.dataset.state = recorded ? "recorded" : "broken";
  ready = false;
  for (const id of ["seed", "dice"]) byId(id).disabled = true;
  chosen.seed = lab.recorded?.seed ?? chosen.seed;
  if (chosen.view === "paint") chosen.view = "all";
  const paint = byId("views").querySelector("[value=paint]");
  if (paint) paint.disabled = true;
  lay();
  if (recorded) showRecorded();
}

function showRecorded() {
  const labels = names.map((_, label) => label);
  take({
    view: "all", labels, seeds: labels.map(() => lab.recorded.seed), frames: recorded, seconds: null,
    recorded: true, plan: planOf(manifest), pick: chosen.label,
  });
  player.fill();
}

// -- from here on the page is alive --------------------------------------------------------------------

byId("views").addEventListener("change", ({ target }) => turnTo(target.value));
byId("class").addEventListener("change", ({ target }) => {
  chosen.label = Number(target.value);
  if (ready) return generate();
  if (run?.recorded) turnTo("one");
});
byId("seed").addEventListener("change", ({ target }) => {
  const seed = seedOf(target.value);
  if (seed === null) {
    const said = target.value ? `The seed ${target.value} is not possible` : "No seed is given";
    say(`${said}: use a whole number from 0 to ${LAST_SEED}.`);
    target.value = chosen.seed;
    return;
  }
  chosen.seed = seed;
  generate();
});
byId("dice").addEventListener("click", () => {
  chosen.seed = Math.floor(Math.random() * 10000);
  lay();
  generate();
});
// What the button said when it was pressed: a seed that is typed starts a run as soon as the pointer
// leaves its field, and a run may end while the button is held.
let pressed = false;
byId("go").addEventListener("pointerdown", () => { pressed = busy; });
byId("go").addEventListener("click", ({ detail }) => {
  const stops = detail ? pressed : busy; // 0: by keyboard
  if (stops) model.stop();
  else if (!busy) generate();
});
addEventListener("hashchange", () => { // a link to another image, in the same tab
  const asked = readAddress(lab.first, names, here);
  Object.assign(chosen, asked);
  if (document.body.dataset.state === "recorded") {
    chosen.seed = lab.recorded.seed;
    turnTo(asked.view === "paint" ? "all" : asked.view);
  } else if (ready) generate();
  else lay();
});
byId("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("ecar-lab-theme", dark ? "light" : "dark");
  } catch { /* storage is forbidden: for this visit */ }
  layTheme();
});
function layTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  byId("theme").textContent = dark ? "Light" : "Dark";
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input:not([type=range]), select, textarea");
  const onButton = event.target.matches("button, [tabindex], input[type=range]");
  const view = VIEWS[Number(event.key) - 1];
  if (inField && event.target.type !== "radio" && event.target.type !== "checkbox") return;
  if (event.key.toLowerCase() === "g") byId("go").click();
  else if (view && panels[view] && views[view] && !(view === "paint" && !ready)) turnTo(view);
  else if (event.key === " " && !onButton && !inField) player.playOrPause();
  else if (event.key === "ArrowLeft" && !onButton && !inField) player.take(player.index - 1);
  else if (event.key === "ArrowRight" && !onButton && !inField) player.take(player.index + 1);
  else return;
  event.preventDefault();
});

layTheme();
lay();
await start();

async function start() {
  const bar = byId("progress");
  const loading = hindrance ? Promise.reject(new Error(hindrance)) : model.load(
    lab, manifest, chosen.options, (come, total) => {
      bar.hidden = ready;
      bar.firstElementChild.value = come / total;
      byId("progress-words").textContent = `${(come / MEGA).toFixed(1)} of ${(total / MEGA).toFixed(1)} MB, once`;
    });
  loading.catch(() => {}); // it is said below
  if (lab.recorded) {
    recorded = await recordedRun(lab.recorded, names.map((_, label) => label)).catch(() => null);
    if (recorded && chosen.view !== "paint" && chosen.seed === lab.recorded.seed) showRecorded();
  }
  try {
    const { backend, threads } = await loading;
    const kind = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
    engine = `Runs here on ${kind}`;
    tell(engine);
  } catch (error) {
    return failed(error.message);
  }
  bar.hidden = true;
  ready = true;
  lay();
  await generate();
  await stayOffline();
}

// From now on the page works without a network.
async function stayOffline() {
  try { // even to ask for them is forbidden in some places
    if (!navigator.serviceWorker || !self.caches) return;
    await active(await navigator.serviceWorker.register(`sw.js?build=${lab.build}`));
    if (!(await model.keep())) return;
    engine += "; works without a network";
    if (!busy) tell(engine);
    document.body.dataset.offline = "yes";
  } catch { /* a browser that keeps nothing: the page works as long as there is a network */ }
}

// Until this build's own service worker has its copy of the page.
function active({ installing, waiting, active: present }) {
  const worker = installing ?? waiting ?? present;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === "activated") resolve();
      if (worker.state === "redundant") reject(new Error("it could not be installed"));
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

// A file that the build wrote.
async function told(place) {
  const answer = await fetch(place).catch(() => null);
  if (!answer?.ok) throw new Error(`${place} did not arrive (${answer?.status ?? "no connection"})`);
  const said = await answer.json().catch(() => null);
  if (!said || typeof said !== "object") throw new Error(`${place} is damaged`);
  return said;
}
