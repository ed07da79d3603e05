// The painting: cells of colour, a palette, beginnings. By mouse, finger or keyboard.

import { make } from "./dom.js";

const PALETTE = [
  ["red", "#c82828"], ["orange", "#e8862a"], ["yellow", "#e8cc48"], ["green", "#3c8232"],
  ["sky blue", "#78b4f0"], ["dark blue", "#1e2a50"], ["brown", "#7a5230"], ["sand", "#d8bc8c"],
  ["white", "#f4f4f4"], ["grey", "#808080"], ["black", "#181818"],
];
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Cells {
  // beginnings: name -> {side: colours}; sides: of the stages that can be painted; onPaint(colours).
  constructor(parent, { beginnings, sides, onPaint }) {
    this.onPaint = onPaint;
    this.colour = PALETTE[0][1];
    this.root = make("div", parent, { class: "canvas" });
    const sizes = make("div", this.root, { class: "segments", role: "radiogroup", "aria-label": "Cells" });
    sides.forEach((side, stage) => radio(sizes, "cells", `stage ${stage + 1}: ${side}×${side}`, !stage, () => {
      this.lay(resized(this.colours, side));
      this.hand();
    }));
    this.grid = make("div", this.root, { class: "cells", role: "group", "aria-label": "Painting: arrow keys move, Enter paints" });
    this.listen();
    this.swatches = make("div", this.root, { class: "palette", role: "radiogroup", "aria-label": "Colour" });
    PALETTE.forEach(([name, value], index) => {
      const label = radio(this.swatches, "colour", "", !index, () => { this.colour = value; });
      label.title = name;
      label.style.setProperty("--colour", value);
      label.firstChild.setAttribute("aria-label", name);
    });
    const starts = make("p", this.root, { class: "starts", text: "Begin with " });
    for (const [name, bySide] of Object.entries(beginnings)) {
      make("button", starts, { type: "button", class: "plain", text: name }).addEventListener("click", () => {
        this.lay(bySide[this.side]);
        this.hand();
      });
    }
    this.lay(Object.values(beginnings)[0][sides[0]]);
  }

  get side() {
    return Math.round(Math.sqrt(this.colours.length));
  }

  lay(colours) {
    this.colours = [...colours];
    if (this.grid.childElementCount !== colours.length) {
      this.grid.replaceChildren();
      this.grid.style.setProperty("--side", this.side);
      colours.forEach((_, index) => make("button", this.grid, { type: "button", tabindex: index ? -1 : 0 }));
    }
    colours.forEach((_, index) => this.draw(index));
  }

  draw(index) {
    const cell = this.grid.children[index];
    const value = this.colours[index];
    const name = PALETTE.find(([, other]) => other === value)?.[0] ?? value;
    cell.style.background = value;
    const [row, column] = [Math.floor(index / this.side) + 1, (index % this.side) + 1];
    cell.setAttribute("aria-label", `Row ${row}, column ${column}: ${name}`);
  }

  paint(index) {
    if (index < 0 || this.colours[index] === this.colour) return;
    this.colours[index] = this.colour;
    this.draw(index);
    this.changed = true;
  }

  hand() {
    this.changed = false;
    this.onPaint(this.colours);
  }

  listen() {
    const cellAt = (event) =>
      [...this.grid.children].indexOf(document.elementFromPoint(event.clientX, event.clientY));
    this.grid.addEventListener("pointerdown", (event) => {
      this.stroke = true;
      this.grid.setPointerCapture(event.pointerId);
      this.paint(cellAt(event));
    });
    this.grid.addEventListener("pointermove", (event) => {
      if (!this.stroke) return;
      for (const place of event.getCoalescedEvents?.() ?? []) this.paint(cellAt(place)); // of a fast stroke
      this.paint(cellAt(event));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.grid.addEventListener(end, () => {
        this.stroke = false;
        if (this.changed) this.hand();
      });
    }
    this.grid.addEventListener("keydown", (event) => {
      const index = [...this.grid.children].indexOf(document.activeElement);
      if (index < 0) return;
      if (event.key === "Enter" || event.key === " ") {
        this.paint(index);
        if (this.changed) this.hand();
      } else if (event.key in MOVES) {
        const [dx, dy] = MOVES[event.key];
        const [x, y] = [(index % this.side) + dx, Math.floor(index / this.side) + dy];
        if (x < 0 || y < 0 || x >= this.side || y >= this.side) return;
        this.grid.children[index].tabIndex = -1;
        const next = this.grid.children[y * this.side + x];
        next.tabIndex = 0;
        next.focus();
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }
}

export function radio(parent, name, words, checked, onChosen) {
  const label = make("label", parent);
  const input = make("input", label, { type: "radio", name });
  input.checked = checked;
  input.addEventListener("change", onChosen);
  label.append(words);
  return label;
}

// Cells of another number: the mean where they become fewer.
function resized(colours, side) {
  const before = Math.round(Math.sqrt(colours.length));
  const span = Math.max(1, before / side);
  return Array.from({ length: side * side }, (_, index) => {
    const total = [0, 0, 0];
    const left = Math.floor(((index % side) * before) / side);
    const top = Math.floor((Math.floor(index / side) * before) / side);
    for (let y = top; y < top + span; y++) {
      for (let x = left; x < left + span; x++) {
        const value = parseInt(colours[y * before + x].slice(1), 16);
        [value >> 16, (value >> 8) & 255, value & 255].forEach((level, k) => { total[k] += level; });
      }
    }
    const hex = total.map((sum) => Math.round(sum / span ** 2).toString(16).padStart(2, "0"));
    return `#${hex.join("")}`;
  });
}
