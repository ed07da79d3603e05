// Two pieces of the Paint tab: the canvas (cells of colour) and what the later stages made of it.
// `element`, `props`, `trigger` and `watch` come from Gradio's HTML component; which of the two this
// is, its template says.

const root = element.querySelector(".canvas, .completed");

// -- the canvas -------------------------------------------------------------------------------------

const PALETTE = [
  ["black", "#181818"], ["grey", "#808080"], ["white", "#f4f4f4"],
  ["brown", "#7a5230"], ["red", "#c82828"], ["orange", "#e8862a"],
  ["yellow", "#e8cc48"], ["green", "#3c8232"], ["sky blue", "#78b4f0"],
  ["dark blue", "#1e2a50"], ["sand", "#d8bc8c"], ["purple", "#7a4a78"],
]; // prettier-ignore
const EMPTY = "#808080";

function canvas() {
  const colourRow = make("div", "palette", "", root);
  const grid = make("div", "grid", "", root);
  grid.setAttribute("aria-label", "Painting: arrow keys move, Enter paints, Shift and an arrow goes on painting");
  const tools = make("div", "tools", "", root);
  const starts = make("div", "tools", "", root);
  const said = make("p", "said", "", root);
  said.setAttribute("aria-live", "polite");

  let side = 0;
  let cells = [];
  let colours = [];
  let colour = PALETTE[4][1];
  let changed = false;
  let sent = "";
  const undone = [];
  const done = [];

  // -- colours
  colourRow.setAttribute("role", "radiogroup");
  colourRow.setAttribute("aria-label", "Colour");
  const swatches = PALETTE.map(([name, value], index) => {
    const label = make("label", "swatch", "", colourRow);
    label.title = index < 9 ? `${name} (key ${index + 1})` : name;
    const input = make("input", "", "", label);
    Object.assign(input, { type: "radio", name: "paint-colour", value, checked: value === colour });
    input.setAttribute("aria-label", name);
    input.addEventListener("change", () => choose(value));
    label.style.setProperty("--colour", value);
    return input;
  });
  const own = make("input", "own", "", colourRow);
  Object.assign(own, { type: "color", value: colour, title: "Any colour" });
  own.setAttribute("aria-label", "Any colour");
  own.addEventListener("input", () => choose(own.value));

  function choose(value) {
    colour = value;
    own.value = value;
    swatches.forEach((input) => (input.checked = input.value === value));
  }

  // -- tools
  function button(parent, text, title, act) {
    const node = make("button", "", text, parent);
    node.type = "button";
    node.title = title;
    node.addEventListener("click", act);
    return node;
  }
  const sizes = make("span", "sizes", "", tools);
  const undo = button(tools, "↶ Undo", "Undo (Ctrl+Z)", () => step(done, undone));
  const redo = button(tools, "↷ Redo", "Redo (Ctrl+Y)", () => step(undone, done));
  button(tools, "Clear", "All cells grey", () => replace(Array(side * side).fill(EMPTY), "Cleared."));
  button(tools, "Fill", "All cells in the colour chosen", () => replace(Array(side * side).fill(colour), "Filled."));

  // Not `disabled`, which would take the focus away from somebody who works by keyboard.
  function offer_steps() {
    undo.setAttribute("aria-disabled", !done.length);
    redo.setAttribute("aria-disabled", !undone.length);
  }
  function remember() {
    done.push({ side, colours: [...colours] });
    if (done.length > 100) done.shift();
    undone.length = 0;
  }
  function step(from, to) {
    const state = from.pop();
    if (!state) return;
    to.push({ side, colours: [...colours] });
    lay(state.colours);
    hand();
  }
  function replace(next, words) {
    remember();
    lay([...next]);
    said.textContent = words;
    hand();
  }

  // Cells of another size: what was painted is kept, by its mean where cells become fewer.
  function resize(next) {
    if (next === side) return;
    const mean = (x, y) => {
      const total = [0, 0, 0];
      const [width, from] = [side / next, (value) => Math.floor((value * side) / next)];
      const span = Math.max(1, Math.floor(width));
      for (let dy = 0; dy < span; dy++)
        for (let dx = 0; dx < span; dx++) {
          const value = parseInt(colours[(from(y) + dy) * side + from(x) + dx].slice(1), 16);
          total[0] += value >> 16; total[1] += (value >> 8) & 255; total[2] += value & 255; // prettier-ignore
        }
      return "#" + total.map((sum) => Math.round(sum / span ** 2).toString(16).padStart(2, "0")).join("");
    };
    const cellsNow = Array.from({ length: next * next }, (_, index) => mean(index % next, Math.floor(index / next)));
    replace(cellsNow, `${next}×${next} cells.`);
  }

  // -- cells
  function lay(next) {
    const count = Math.round(Math.sqrt(next.length));
    if (count !== side) {
      side = count;
      cells = build(side);
      grid.classList.toggle("fine", side > 16);
    }
    colours = [...next];
    cells.forEach((_, index) => draw(index));
    offer_steps();
    for (const input of sizes.querySelectorAll("input")) input.checked = Number(input.value) === side;
  }
  const named = (value) => PALETTE.find(([, other]) => other === value)?.[0] ?? value;
  function draw(index) {
    cells[index].style.background = colours[index];
    cells[index].setAttribute(
      "aria-label", `${placeOf(index, side)}: ${named(colours[index])}`);
  }
  function paint(index) {
    if (colours[index] === colour) return;
    if (!changed) remember();
    changed = true;
    colours[index] = colour;
    draw(index);
  }
  function hand() {
    changed = false;
    offer_steps();
    sent = colours.join();
    props.value = { ...props.value, colours: [...colours] };
    trigger("input");
  }

  const { build } = cellGrid(grid, {
    press: () => {},
    paint,
    lift: () => changed && hand(),
  });
  root.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      if (key === "y" || event.shiftKey) step(undone, done);
      else step(done, undone);
    } else if (/^[1-9]$/.test(key) && event.target.closest(".cell")) {
      choose(PALETTE[Number(key) - 1][1]);
      said.textContent = `Colour: ${PALETTE[Number(key) - 1][0]}.`;
    } else return;
    event.preventDefault();
  });

  // -- what comes from the server: the first painting, or one of a picture
  function show() {
    const value = props.value;
    if (!value || value.colours.join() === sent) return;
    if (!sizes.childElementCount) offer(value);
    else remember();
    sent = value.colours.join();
    lay(value.colours);
  }
  function offer(value) {
    sizes.setAttribute("role", "radiogroup");
    sizes.setAttribute("aria-label", "Cells");
    for (const count of value.sides) {
      const label = make("label", "", "", sizes);
      const input = make("input", "", "", label);
      Object.assign(input, { type: "radio", name: "paint-side", value: count });
      input.addEventListener("change", () => resize(count));
      label.append(count === value.sides.at(-1) ? `strokes (${count}×${count})` : `${count}×${count}`);
    }
    make("span", "", "Begin with:", starts);
    for (const [name, sides] of Object.entries(value.beginnings)) {
      button(starts, name, `Begin with: ${name}`, () => replace(sides[side], `Begun with ${name}.`));
    }
  }
  watch("value", show);
  show();
}

// -- what became of it --------------------------------------------------------------------------------

function completed() {
  const status = make("p", "status", "", root);
  status.setAttribute("aria-live", "polite");
  const table = make("div", "images", "", root);
  const way = make("div", "way", "", root);
  let tiles = [];
  let shape = "";

  function build(view) {
    table.replaceChildren();
    table.style.setProperty("--seeds", view.seeds.length);
    make("span", "corner", "", table);
    for (const seed of view.seeds) make("span", "seed", `seed ${seed}`, table);
    tiles = [];
    for (const name of view.classes) {
      make("strong", "", name, table);
      for (const seed of view.seeds) {
        const tile = make("button", "tile", "", table);
        tile.type = "button";
        tile.title = `Keep as a run: ${name}, seed ${seed}`;
        tile.setAttribute("aria-label", tile.title);
        tile.addEventListener("click", () => trigger("select", { name, seed }));
        tiles.push(tile);
      }
    }
  }

  function show() {
    root.classList.remove("waiting");
    const view = props.value;
    if (!view) {
      status.textContent = "Paint something, or press “Complete it”.";
      return;
    }
    const now = JSON.stringify([view.classes, view.seeds]);
    if (now !== shape) build(view);
    shape = now;
    if (view.sprite) {
      tiles.forEach((tile, index) => {
        tile.style.backgroundImage = `url(${view.sprite})`;
        tile.style.backgroundSize = `${tiles.length * 100}% 100%`;
        tile.style.backgroundPosition = `${tiles.length > 1 ? (index / (tiles.length - 1)) * 100 : 0}% 0`;
      });
    }
    table.classList.toggle("rough", !view.done);
    announce(root, (view.sprite ? view.at : view.stage) - 1, view.done ? "decode" : "flow");
    status.textContent = view.kept ? view.kept : view.done
      ? `${tiles.length} images from your stage ${view.stage}, in ${view.seconds.toFixed(2)} s.`
      : view.sprite
        ? `Stage ${view.at} of ${view.stages} is done …`
        : `Your stage ${view.stage} is handed over …`;
    way.replaceChildren();
    make("h2", "", "How it is handed over", way);
    const row = make("div", "row", "", way);
    for (const one of view.handed) {
      const figure = make("figure", "", "", row);
      const picture = make("img", "", "", figure);
      picture.src = one.picture;
      picture.alt = one.label;
      const caption = make("figcaption", "", "", figure);
      make("strong", "", one.label, caption);
      make("span", "", one.note, caption);
    }
  }
  awaits(root, status, (cut) => (cut ? (status.textContent = "Stopped.") : show()));
  watch("value", show);
  show();
}

if (root.classList.contains("canvas")) canvas();
else completed();
