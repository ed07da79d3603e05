// A square of cells that is painted by mouse, finger or keys. `press(index, goesOn)`: a stroke begins at
// a cell, or goes on from it; `paint(index)`: it comes to a cell; `lift()`: it has ended.

function cellGrid(grid, { press, paint, lift }) {
  let side = 0;
  let cells = [];
  let last = null; // the cell that the stroke has come to, null between strokes
  grid.setAttribute("role", "grid");

  function build(count) {
    side = count;
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
    return cells;
  }

  function rove(index) {
    cells.forEach((cell, other) => (cell.tabIndex = other === index ? 0 : -1));
    cells[index].focus({ preventScroll: true });
  }

  // Under a finger events stay with the cell touched first, so the place is asked for.
  function cellAt(event) {
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest(".cell");
    return cell && grid.contains(cell) ? Number(cell.dataset.index) : null;
  }

  // A fast hand is seen in few places: the cells between two of them belong to the stroke.
  function strokeTo(index) {
    const [x, y] = [index % side, Math.floor(index / side)];
    const [fromX, fromY] = [last % side, Math.floor(last / side)];
    const steps = Math.max(1, Math.abs(x - fromX), Math.abs(y - fromY));
    for (let step = 1; step <= steps; step++) {
      const across = Math.round(fromX + ((x - fromX) * step) / steps);
      const down = Math.round(fromY + ((y - fromY) * step) / steps);
      paint(down * side + across);
    }
    last = index;
  }

  grid.addEventListener("pointerdown", (event) => {
    const index = cellAt(event);
    if (index === null || event.button) return;
    event.preventDefault();
    grid.setPointerCapture(event.pointerId);
    last = index;
    rove(index);
    press(index, false);
    paint(index);
  });
  grid.addEventListener("pointermove", (event) => {
    const index = last === null ? null : cellAt(event);
    if (index !== null) strokeTo(index);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    grid.addEventListener(end, () => {
      if (last === null) return;
      last = null;
      lift();
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
      press(index, false);
      paint(index);
      lift();
    } else if (goal) {
      if (Math.min(...goal) >= 0 && Math.max(...goal) < side) {
        const next = goal[1] * side + goal[0];
        if (event.shiftKey) {
          press(index, true);
          paint(next);
          lift();
        }
        rove(next);
      }
    } else return;
    event.preventDefault();
  });
  return { build };
}

// "Row 2, column 3", for the name of a cell.
function placeOf(index, side) {
  return `Row ${Math.floor(index / side) + 1}, column ${(index % side) + 1}`;
}
