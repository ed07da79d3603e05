// Two pieces of the Intervene tab: the painter (a grid of latent pixels to be marked) and the results
// (pictures with words below). `element`, `props` and `watch` come from Gradio's HTML component; which
// of the two this is, its template says.

const root = element.querySelector(".painter, .results");

// -- results ----------------------------------------------------------------------------------------

function results() {
  const status = make("p", "status", "", root);
  status.setAttribute("aria-live", "polite");
  const body = make("div", "body", "", root);

  let view = null; // the last that was more than a word on the way

  function show() {
    if (props.value?.status) {
      if (!stopping(root.dataset.name)) status.textContent = props.value.status;
      return;
    }
    view = props.value;
    root.classList.remove("waiting");
    draw();
  }

  function draw() {
    if (!view || !view.groups) {
      status.textContent = "Nothing yet: choose an intervention above.";
      return;
    }
    status.textContent = view.sentence;
    announce(root, 0, "decode");
    body.replaceChildren();
    if (view.says) make("p", "says", view.says, body);
    for (const group of view.groups) {
      if (group.title) make("h2", "", group.title, body);
      const row = make("div", "row", "", body);
      for (const one of group.figures) {
        const figure = make("figure", one.hue ? "small" : "", "", row);
        if (one.hue) figure.style.setProperty("--hue", one.hue);
        const picture = make("img", "", "", figure);
        picture.src = served(one.file);
        picture.alt = one.alt;
        const caption = make("figcaption", "", "", figure);
        make("strong", "", one.label, caption);
        if (one.note) make("span", "", one.note, caption);
      }
    }
  }

  awaits(root, status, (cut) => (cut ? (status.textContent = "Stopped.") : draw()));
  watch("value", show);
  show();
}

// -- painter ----------------------------------------------------------------------------------------

function painter() {
  const tools = make("div", "tools", "", root);
  const count = make("span", "count", "", null);
  count.setAttribute("aria-live", "polite");
  const frame = make("div", "frame", "", root);
  const picture = make("img", "", "", frame);
  const grid = make("div", "grid", "", frame);
  grid.setAttribute("aria-multiselectable", "true");
  let side = 0;
  let cells = [];
  let marked = [];
  let brush = true; // what a stroke puts down

  function button(text, act) {
    const node = make("button", "", text, tools);
    node.type = "button";
    node.addEventListener("click", () => {
      if (!side) return;
      marked = marked.map(act);
      marked.forEach((on, index) => draw(index));
      hand();
    });
  }
  button("All", () => true);
  button("None", () => false);
  button("Invert", (on) => !on);
  tools.append(count);

  const rows = () =>
    Array.from({ length: side }, (_, y) =>
      marked.slice(y * side, (y + 1) * side).map(Number).join(""));

  function hand() {
    props.value = [{ ...props.value[0], mask: rows() }];
    say();
  }

  function say() {
    const total = marked.filter(Boolean).length;
    count.textContent = `${total} of ${side * side} painted`;
  }

  function draw(index) {
    const cell = cells[index];
    const on = marked[index];
    cell.classList.toggle("on", on);
    cell.setAttribute("aria-selected", on);
    cell.setAttribute("aria-label", `${placeOf(index, side)}: ${on ? "painted" : "not painted"}`);
  }

  const { build } = cellGrid(grid, {
    press: (index, goesOn) => (brush = goesOn ? marked[index] : !marked[index]),
    paint(index) {
      if (marked[index] === brush) return;
      marked[index] = brush;
      draw(index);
    },
    lift: hand,
  });

  // What is painted belongs to the page: a run that ends brings back the mask that it began with,
  // and strokes made meanwhile stay.
  function show() {
    const value = props.value?.[0];
    root.classList.toggle("empty", !value?.picture);
    if (!value?.picture) return;
    lay(value);
    if (value.side === side) {
      if (value.mask.join() !== rows().join()) hand();
      return;
    }
    side = value.side;
    cells = build(side);
    marked = [...value.mask.join("")].map((cell) => cell === "1");
    marked.forEach((on, index) => draw(index));
    say();
  }

  function lay(value) {
    root.style.setProperty("--hue", value.hue);
    if (picture.getAttribute("src") !== served(value.picture)) picture.src = served(value.picture);
    picture.alt = value.alt;
    grid.setAttribute("aria-label", `${value.alt}: cells to paint`);
  }

  watch("value", show);
  show();
}

if (root.classList.contains("painter")) painter();
else results();
