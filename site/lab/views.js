// What the three views draw of a run: {labels, seeds, frames, seconds, stopped, recorded,
// painted}.

import { figure, make } from "./dom.js";
import { clear, draw } from "./pictures.js";

// One image: a column per stage, each with the last moment that it had.
export class OneView {
  constructor(parent, { manifest, lab, onSave }) {
    this.manifest = manifest;
    this.root = make("div", parent, { class: manifest.stages.length > 1 ? "one" : "one single" });
    this.root.style.setProperty("--stages", manifest.stages.length);
    this.root.style.setProperty("--handovers", manifest.stages.length - 1);
    this.stages = manifest.stages.map(({ resolution, num_inference_steps: steps }, stage) => {
      if (stage) {
        const arrow = make("p", this.root, { class: "handover" });
        make("span", arrow, { text: `×${manifest.ratio}` });
        make("b", arrow, { text: "→", "aria-hidden": "true" });
        make("span", arrow, { text: "+ noise" });
      }
      const column = make("article", this.root, { class: "stage" });
      column.style.setProperty("--hue", lab.hues[stage]);
      const head = make("h3", column, { text: `Stage ${stage + 1}` });
      make("span", head, { text: ` ${resolution}×${resolution}` });
      const latent = figure(column, "Noisy latent");
      const picture = figure(column, "Where it points");
      const dots = make("p", column, { class: "dots" });
      return { column, latent, picture, dots, steps };
    });
    const result = make("article", this.root, { class: "result" });
    this.result = figure(result, "Image");
    this.caption = make("p", result, { class: "caption", role: "status" });
    this.save = make("button", result, { class: "plain", type: "button", text: "Save as PNG" });
    this.save.addEventListener("click", () => onSave(this.result));
  }

  show(run, index) {
    const { labels, seeds, frames, seconds, recorded, stopped, pick } = run;
    const now = frames[index];
    this.stages.forEach(({ column, latent, picture, dots, steps }, stage) => {
      const shown = frames.slice(0, index + 1).findLast((frame) => frame.stage === stage);
      column.classList.toggle("now", stage === now.stage);
      const step = shown?.step ?? 0;
      dots.textContent = "●".repeat(step) + "○".repeat(steps - step);
      dots.setAttribute("aria-label", `${step} of ${steps} steps`);
      dots.setAttribute("role", "img");
      if (!shown) return [latent, picture].forEach(clear);
      draw(latent, shown.latent, pick);
      draw(picture, shown.picture, pick);
    });
    const name = this.manifest.class_names[labels[pick]];
    draw(this.result, now.picture, pick);
    this.result.setAttribute("aria-label", `Image of the class ${name}, seed ${seeds[pick]}`);
    const made = recorded ? "recorded when this page was built"
      : stopped ? "stopped on the way"
      : seconds === null ? "being made here"
      : `${labels.length > 1 ? `with ${labels.length - 1} others ` : ""}made here in ${seconds.toFixed(2)} s`;
    this.caption.textContent = `${name}, seed ${seeds[pick]}: ${made}`;
    this.save.disabled = !now.final;
  }
}

// All images of a run, each a button.
export class AllView {
  constructor(parent, { manifest, onPick }) {
    this.manifest = manifest;
    this.onPick = onPick;
    this.root = make("div", parent, { class: "all" });
    this.tiles = [];
  }

  show(run, index) {
    const { labels, frames } = run;
    if (this.tiles.length !== labels.length) {
      this.root.replaceChildren();
      this.tiles = labels.map((_, image) => {
        const tile = make("button", this.root, { type: "button" });
        tile.addEventListener("click", () => this.onPick(image));
        return { tile, canvas: make("canvas", tile, { role: "img" }), name: make("span", tile) };
      });
    }
    this.tiles.forEach(({ canvas, name }, image) => {
      const words = this.manifest.class_names[labels[image]];
      name.textContent = words;
      canvas.setAttribute("aria-label", `Look inside: ${words}`);
      draw(canvas, frames[index].picture, image);
    });
  }
}

// What became of a painting: how it is handed over, and an image per class and seed.
export class PaintedView {
  constructor(parent, { manifest, lab }) {
    this.manifest = manifest;
    this.lab = lab;
    this.root = make("div", parent, { class: "painted" });
    const way = make("div", this.root, { class: "handed" });
    this.handed = ["Painted", "As a latent and back", "All that is kept", "With its noise"].map((words) =>
      figure(way, words));
    this.grid = make("div", this.root, { class: "completed" });
    this.shape = "";
  }

  showHanded(pictures) {
    pictures.forEach((picture, index) => draw(this.handed[index], picture));
  }

  show(run, index) {
    const shape = JSON.stringify([run.labels, run.seeds]);
    if (shape !== this.shape) this.build(run);
    this.shape = shape;
    this.canvases.forEach((canvas, image) => draw(canvas, run.frames[index].picture, image));
  }

  build({ labels, seeds }) {
    this.grid.replaceChildren();
    this.canvases = labels.map((label, image) =>
      figure(this.grid, this.manifest.class_names[label], `seed ${seeds[image]}`));
    this.grid.style.setProperty("--seeds", new Set(seeds).size); // a column per class
  }
}
