// Sliders that the image follows. One picture is made at a time, at most one more is asked for; what
// is moved meanwhile waits, and of all that waits only the newest is asked for. `element`, `props`, `watch` and `server` come from
// Gradio's HTML component; see live/runs.py for a wish, live/tab.py for the answer.

const PATIENCE = 400; // milliseconds after which a newer wish ends the run under way
const STILL = 200; // milliseconds without a move after which the finger rests
const REST = 600; // milliseconds without a move after which the image becomes the current run
const root = element.querySelector(".live");
const page = Array.from({ length: 4 }, () => Math.random().toString(36).slice(2, 8)).join("");

const desk = make("div", "desk", "", root);
const controls = make("div", "controls", "", desk);
const result = make("div", "result", "", desk);
const image = make("div", "image", "", result);
image.setAttribute("role", "img");
const ends = make("div", "ends", "", result);
const status = make("p", "status", "", result);
const spoken = make("p", "spoken", "", result);
spoken.setAttribute("aria-live", "polite");

let view = null;
let wish = null;
let fields = {}; // by name: a function that puts the control to a value

// -- controls ----------------------------------------------------------------------------------------

function labelled(text, parent, control, hint) {
  const label = make("label", "", "", parent);
  const head = make("span", "head", text, label);
  const value = make("span", "value", "", head);
  if (hint) make("span", "hint", hint, label);
  label.append(control);
  return value;
}

function slider(parent, text, [low, high], step, words, set, hint) {
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: low, max: high, step });
  input.setAttribute("aria-label", text);
  const value = labelled(text, parent, input, hint);
  const put = (number) => {
    input.value = number;
    value.textContent = words(number);
    input.setAttribute("aria-valuetext", words(number));
  };
  input.addEventListener("input", () => {
    put(Number(input.value));
    set(Number(input.value));
    moved();
  });
  return put;
}

function classes(parent, text, set) {
  const select = document.createElement("select");
  for (const name of view.classes) make("option", "", name, select).value = name;
  labelled(text, parent, select);
  select.addEventListener("change", () => {
    set(select.value);
    moved();
  });
  return (name) => (select.value = name);
}

function seed(parent, text, name) {
  const row = make("div", "seed", "", parent);
  const input = document.createElement("input");
  Object.assign(input, { type: "number", min: 0, max: view.largest_seed, step: 1 });
  labelled(text, row, input);
  input.addEventListener("change", () => {
    wish[name] = input.value === "" ? 0 : Number(input.value);
    moved();
  });
  const dice = make("button", "", "⚄", row);
  dice.type = "button";
  dice.title = `New number: ${text}`;
  dice.setAttribute("aria-label", dice.title);
  dice.addEventListener("click", () => {
    wish[name] = input.value = Math.floor(Math.random() * view.largest_seed);
    moved();
  });
  return (number) => (input.value = number);
}

function group(title) {
  const set = make("fieldset", "", "", controls);
  make("legend", "", title, set);
  return set;
}

const percent = (share) => `${Math.round(100 * share)} %`;

function build() {
  controls.replaceChildren();
  const stages = view.stages.length;
  const base = group("The image");
  fields = { class_name: classes(base, "Class", (name) => (wish.class_name = name)) };
  fields.seed = seed(base, "Seed", "seed");
  const mix = group("Another class, from a stage on");
  fields.mix_class = classes(mix, "Other class", (name) => (wish.mix_class = name));
  fields.mix = slider(mix, "Share of it", [0, 1], 0.02, percent, (share) => (wish.mix = share));
  if (stages > 1) {
    fields.from_stage = slider(mix, "From stage", [1, stages], 1, (stage) => `${stage}`,
      (stage) => (wish.from_stage = stage - 1), "Earlier stages keep the class of the image.");
  }
  const scale = group("Guidance");
  fields.guidance = slider(scale, "How much the class counts", view.guidance, 0.1,
    (g) => g.toFixed(1), (g) => (wish.guidance = g));
  const walk = group("From the noise of one seed to another's");
  fields.walk_seed = seed(walk, "Seed to walk to", "walk_seed");
  const each = [];
  if (stages > 1) {
    fields.all = slider(walk, "All stages", [0, 1], 0.02, percent, (share) => {
      wish.walk = wish.walk.map(() => share);
      each.forEach((put) => put(share));
    });
  }
  view.stages.forEach(({ side }, stage) => {
    const text = stages > 1 ? `Stage ${stage + 1} (${side}×${side})` : "Way";
    each.push(slider(walk, text, [0, 1], 0.02, percent, (share) => {
      wish.walk[stage] = share;
      putMean();
    }));
  });
  const putMean = () => fields.all?.(wish.walk.reduce((sum, share) => sum + share, 0) / stages);
  fields.walk = (shares) => {
    each.forEach((put, stage) => put(shares[stage]));
    putMean();
  };
  ends.replaceChildren();
  view.stages.forEach(({ side, hue }, stage) => {
    const figure = make("figure", "", "", ends);
    make("div", "picture", "", figure);
    make("figcaption", "", `Stage ${stage + 1}: ${side}×${side}`, figure);
    figure.style.setProperty("--hue", hue);
  });
}

function put() {
  for (const name of Object.keys(fields)) {
    if (name === "all") continue;
    fields[name](name === "from_stage" ? wish[name] + 1 : wish[name]);
  }
}

// -- asking: always the newest wish -------------------------------------------------------------------

let newest = 0; // the number of the newest wish
let shown = 0; // and of the one in sight
let underWay = null; // { number, since }
let following = null; // the same, of a second one that is asked for while the first is made
let pace = Infinity; // milliseconds that the last picture took
let spared = true; // a picture has come since a run was ended early: the next may be ended, too
let rest = null;
let still = null;
let patience = null;
let touched = false; // by a person: what the tab opens with is nobody's run
let draft = false; // while a finger is on its way a picture of fewer steps will do
let movedAt = -Infinity;

function moved() {
  touched = true;
  const now = performance.now();
  draft = view.drafts && now - movedAt < STILL;
  movedAt = now;
  wanted();
}

function wanted() {
  newest += 1;
  clearTimeout(still);
  if (draft) still = setTimeout(finish, STILL);
  root.classList.add("behind");
  clearTimeout(rest);
  ask();
}

function ask() {
  if (!newest || newest === shown || !root.offsetParent) return;
  if (following || underWay?.number === newest) return;
  if (!underWay) return send(false);
  const gone = performance.now() - underWay.since;
  if (pace < PATIENCE / 2) {
    // The model never waits for the page: the next wish leaves before the last picture is here.
    if (gone >= pace / 2) return send(true);
    return askIn(pace / 2 - gone);
  }
  // A slow run is ended for the newest wish, but not one after the other: pictures should come.
  if (!spared) return;
  if (gone < PATIENCE) return askIn(PATIENCE - gone);
  spared = false;
  send(false);
}

// The finger rests: the picture of all steps.
function finish() {
  draft = false;
  wanted();
}

function askIn(milliseconds) {
  clearTimeout(patience);
  patience = setTimeout(ask, milliseconds);
}

// follows: it waits for the run under way, which is not ended for it.
async function send(follows) {
  const mine = { number: newest, since: performance.now() };
  if (follows) following = mine;
  else underWay = mine;
  let answer;
  try {
    answer = await server.picture({
      page, number: newest, follows, draft, wish: structuredClone(wish),
    });
  } catch {
    answer = { sentence: "The server does not answer: is it running? Move a slider to try again." };
  }
  if (following === mine) following = null;
  if (underWay === mine) {
    [underWay, following] = [following, null];
    if (underWay) underWay.since = performance.now();
  }
  if (answer.busy) return setTimeout(ask, 500);
  if (answer.seconds) pace = 1000 * answer.seconds;
  if (!answer.dropped) show(answer, mine.number);
  ask();
}

function show(answer, number) {
  if (number < shown) return;
  shown = number;
  spared = true;
  const now = number === newest && !answer.draft;
  root.classList.toggle("behind", !now);
  if (answer.sentence) {
    status.textContent = spoken.textContent = answer.sentence;
    return;
  }
  const tiles = [...ends.querySelectorAll(".picture"), image];
  tiles.forEach((tile, index) => {
    const place = Math.min(index, answer.count - 1); // the image is the last stage's end
    tile.style.backgroundImage = `url(${answer.sprite})`;
    tile.style.backgroundSize = `${answer.count * 100}% 100%`;
    tile.style.backgroundPosition = `${answer.count > 1 ? (place / (answer.count - 1)) * 100 : 0}% 0`;
  });
  image.setAttribute("aria-label", answer.run.title);
  announce(root, view.stages.length, "decode");
  root.dataset.number = number;
  status.textContent = `${answer.run.title}. Made in ${Math.round(1000 * answer.seconds)} ms${answer.draft ? ", in fewer steps while you move" : ""}.`;
  if (!now || !touched) return;
  rest = setTimeout(() => {
    spoken.textContent = status.textContent;
    document.dispatchEvent(new CustomEvent("ecar:current", { detail: answer.run }));
  }, REST);
}

function receive() {
  const next = props.value;
  if (!next?.wish) return;
  const anew = !view || view.stages.length !== next.stages.length;
  view = next;
  wish = structuredClone(next.wish);
  if (anew) build();
  put();
  touched = draft = false;
  wanted();
}

// What is wished while the tab is out of sight is made when it comes into sight.
new IntersectionObserver(() => ask()).observe(root);
watch("value", receive);
receive();
