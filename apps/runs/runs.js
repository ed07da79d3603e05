// The visitor's finished runs as a group of radio buttons with thumbnails: arrow keys choose, and a
// screen reader says what each was. The server sends {runs, chosen, a, b}; a choice goes back to it
// as a "select" event. `element`, `props`, `watch` and `trigger` come from Gradio's HTML component.

const root = element.querySelector(".history");
const name = `run-${Math.random().toString(36).slice(2)}`;
let cards = new Map(); // number -> {card, input, pins}
let drawn = null; // which runs the cards stand for

function add(run, parent) {
  const card = make("label", "run", "", parent);
  const input = make("input", "", "", card);
  Object.assign(input, { type: "radio", name, value: run.number });
  input.addEventListener("change", () => trigger("select", { number: run.number }));
  const image = make("img", "", "", card);
  image.src = served(run.file);
  image.alt = `Image of run ${run.number}`;
  const words = make("span", "words", "", card);
  make("strong", "", `${run.number}: ${run.title}`, words);
  make("small", "", run.details, words);
  const pins = make("span", "pins", "", words);
  return { card, input, pins };
}

function draw() {
  const view = props.value;
  if (!view) return;
  if (view.runs.length) announce(root, 0, "decode");
  const numbers = view.runs.map((run) => run.number).join();
  if (numbers !== drawn) {
    const focused = root.contains(document.activeElement) ? document.activeElement.value : null;
    root.replaceChildren();
    cards = new Map(view.runs.map((run) => [run.number, add(run, root)]));
    if (!view.runs.length) {
      make("p", "empty", "No finished run yet: make one in another tab, or load a recipe.", root);
    }
    drawn = numbers;
    cards.get(Number(focused))?.input.focus();
  }
  cards.forEach(({ card, input, pins }, number) => {
    input.checked = number === view.chosen;
    card.classList.toggle("chosen", number === view.chosen);
    const words = [];
    if (number === view.a) words.push("pinned as A");
    if (number === view.b) words.push("pinned as B");
    pins.textContent = words.join(", ");
  });
}

watch("value", draw);
draw();
