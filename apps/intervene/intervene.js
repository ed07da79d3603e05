// Two pieces of the Intervene tab: the painter (a grid of latent pixels to be marked) and the results
// (pictures with words below). `element`, `props` and `watch` come from Gradio's HTML component; which
// of the two this is, its template says.

const root = element.querySelector(".painter, .results");

// -- results ----------------------------------------------------------------------------------------

function results() {
  const status = make("p", "status", "", root);
  status.setAttribute("aria-live", "polite");
  const body = make("div", "body", "", root);

  function show() {
    root.classList.remove("waiting");
    const view = props.value;
    if (!view || !view.groups) {
      status.textContent = "Nothing yet: choose an intervention above.";
      return;
    }
    status.textContent = view.sentence;
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

  awaits(root, status, (cut) => (cut ? (status.textContent = "Stopped.") : show()));
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
  grid.setAttribute("role", "grid");
  grid.setAttribute("aria-multiselectable", "true");
  let side = 0;
  let cells = [];
  let marked = [];
  let brush = null; // what a stroke puts down: true, false, or null between strokes
  let last = 0; // the cell that the stroke has come to
  let sent = ""; // the mask as it was last handed on

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
    sent = rows().join();
    props.value = { ...props.value, mask: rows() };
    const total = marked.filter(Boolean).length;
    count.textContent = `${total} of ${side * side} painted`;
  }

  function draw(index) {
    const cell = cells[index];
    const on = marked[index];
    cell.classList.toggle("on", on);
    cell.setAttribute("aria-selected", on);
    const place = `Row ${Math.floor(index / side) + 1}, column ${(index % side) + 1}`;
    cell.setAttribute("aria-label", `${place}: ${on ? "painted" : "not painted"}`);
  }

  function paint(index, on) {
    if (marked[index] === on) return;
    marked[index] = on;
    draw(index);
  }

  // A fast hand is seen in few places: the cells between two of them belong to the stroke.
  function stroke(index) {
    const [x, y] = [index % side, Math.floor(index / side)];
    const [fromX, fromY] = [last % side, Math.floor(last / side)];
    const steps = Math.max(1, Math.abs(x - fromX), Math.abs(y - fromY));
    for (let step = 1; step <= steps; step++) {
      const across = Math.round(fromX + ((x - fromX) * step) / steps);
      const down = Math.round(fromY + ((y - fromY) * step) / steps);
      paint(down * side + across, brush);
    }
    last = index;
  }

  function rove(index) {
    cells.forEach((cell, other) => (cell.tabIndex = other === index ? 0 : -1));
    cells[index].focus({ preventScroll: true });
  }

  function build() {
    grid.replaceChildren();
    grid.style.gridTemplate = `repeat(${side}, 1fr) / repeat(${side}, 1fr)`;
    cells = [];
    for (let y = 0; y < side; y++) {
      const line = make("div", "line", "", grid);
      line.setAttribute("role", "row");
      for (let x = 0; x < side; x++) {
        const cell = make("div", "cell", "", line);
        cell.setAttribute("role", "gridcell");
        cell.dataset.index = cells.length;
        cell.tabIndex = cells.length ? -1 : 0;
        cells.push(cell);
      }
    }
  }

  // Under a finger events stay with the cell touched first, so the place is asked for.
  function cellAt(event) {
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest(".cell");
    return cell && grid.contains(cell) ? Number(cell.dataset.index) : null;
  }

  grid.addEventListener("pointerdown", (event) => {
    const index = cellAt(event);
    if (index === null || event.button) return;
    event.preventDefault();
    grid.setPointerCapture(event.pointerId);
    brush = !marked[index];
    rove(index);
    paint(index, brush);
    last = index;
  });
  grid.addEventListener("pointermove", (event) => {
    const index = brush === null ? null : cellAt(event);
    if (index !== null) stroke(index);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    grid.addEventListener(end, () => {
      if (brush === null) return;
      brush = null;
      hand();
    });
  }
  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const index = Number(cell.dataset.index);
    const [x, y] = [index % side, Math.floor(index / side)];
    const goal = {
      ArrowLeft: [x - 1, y], ArrowRight: [x + 1, y], ArrowUp: [x, y - 1], ArrowDown: [x, y + 1],
      Home: [0, y], End: [side - 1, y],
    }[event.key]; // prettier-ignore
    if (event.key === "Enter" || event.key === " ") {
      paint(index, !marked[index]);
      hand();
    } else if (goal) {
      if (Math.min(...goal) >= 0 && Math.max(...goal) < side) {
        const next = goal[1] * side + goal[0];
        if (event.shiftKey) {
          paint(next, marked[index]); // the stroke goes on
          hand();
        }
        rove(next);
      }
    } else return;
    event.preventDefault();
  });

  function show() {
    const value = props.value;
    root.classList.toggle("empty", !value?.picture);
    if (!value?.picture || value.mask.join() === sent) {
      if (value?.picture) lay(value);
      return;
    }
    if (value.side !== side) {
      side = value.side;
      build();
    }
    marked = [...value.mask.join("")].map((cell) => cell === "1");
    marked.forEach((on, index) => draw(index));
    sent = value.mask.join();
    count.textContent = `${marked.filter(Boolean).length} of ${side * side} painted`;
    lay(value);
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
