// The moments of a run: slider, play, and the chart of how much is image and how much still noise.

import { byId } from "./dom.js";
import { timeGrid } from "./engine.js";

const [PACE, LATE] = [90, 30]; // milliseconds a moment while a run is made, and when it is done
const SLOW = 350; // while it is played
const MOVES = /^(Arrow|Page|Home|End)/;
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP, BOTTOM] = [1000, 76, 10, 62];

export class Player {
  // plan: {stage, step, t} of every moment, hues: one per stage; show(index) draws a moment.
  constructor(show) {
    this.show = show;
    this.slider = byId("moment");
    this.index = 0;
    this.come = 0; // moments that are there
    this.following = false;
    this.timer = null;
    this.slider.addEventListener("input", () => this.take(Number(this.slider.value)));
    // Home at the first moment changes nothing, but a visitor who presses it wants to stay there.
    this.slider.addEventListener("keydown", ({ key }) => MOVES.test(key) && this.stop());
    this.slider.addEventListener("pointerdown", () => this.stop());
    byId("back").addEventListener("click", () => this.take(this.index - 1));
    byId("on").addEventListener("click", () => this.take(this.index + 1));
    byId("play").addEventListener("click", () => this.playOrPause());
  }

  // A new run, of which no moment is there yet.
  begin(plan, hues) {
    this.stop();
    this.plan = plan;
    this.come = 0;
    this.slider.max = plan.length - 1;
    drawChart(plan, hues);
    this.following = true;
  }

  // One moment more is there.
  push() {
    this.come += 1;
    if (this.following && !this.timer) this.follow();
  }

  // All are there: the last is shown.
  fill() {
    this.come = this.plan.length;
    this.following = false;
    this.go(this.come - 1);
  }

  follow() {
    this.go(this.timer === null && this.come === 1 ? 0 : Math.min(this.index + 1, this.come - 1));
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.following && this.index < this.come - 1) this.follow();
    }, this.come < this.plan.length ? PACE : LATE);
  }

  // What the visitor chose.
  take(index) {
    this.stop();
    this.go(index);
  }

  go(index) {
    if (!this.come) return;
    this.index = Math.max(0, Math.min(index, this.come - 1));
    this.slider.value = this.index;
    this.show(this.index);
    document.querySelector("#chart .dot").setAttribute("d", spot(placeOf(this.plan, this.index)));
  }

  playOrPause() {
    if (this.playing) return this.stop();
    this.stop();
    this.playing = true;
    byId("play").textContent = "Pause";
    if (this.index >= this.come - 1) this.go(0);
    this.timer = setInterval(() => {
      this.go(this.index + 1);
      if (this.index >= this.come - 1) this.stop();
    }, SLOW);
  }

  stop() {
    clearTimeout(this.timer);
    clearInterval(this.timer);
    this.timer = null;
    this.playing = this.following = false;
    byId("play").textContent = "Play";
  }
}

// Every moment of a run with these steps per stage, from a stage on.
export function planOf(manifest, from = 0) {
  return manifest.stages.flatMap((about, stage) => {
    if (stage < from) return [];
    const [start, end] = about.window;
    const numSteps = about.num_inference_steps;
    return timeGrid(numSteps, about.time_power).map((tau, step) => (
      { stage, step, numSteps, t: start + tau * (end - start) }));
  });
}

function placeOf(plan, index) {
  const x = plan.length > 1 ? (index / (plan.length - 1)) * WIDTH : WIDTH / 2;
  return { x, y: BOTTOM - plan[index].t * (BOTTOM - TOP) };
}

// A path without length: with round ends it is a disc, however the chart is stretched.
function spot({ x, y }) {
  return `M${x} ${y}h0`;
}

function drawChart(plan, hues) {
  const chart = byId("chart");
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const add = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    svg.append(node);
  };
  for (const t of [0, 1]) {
    const y = BOTTOM - t * (BOTTOM - TOP);
    add("line", { class: "level", x1: 0, x2: WIDTH, y1: y, y2: y });
  }
  for (let i = 1; i < plan.length; i++) {
    const [a, b] = [placeOf(plan, i - 1), placeOf(plan, i)];
    const same = plan[i].stage === plan[i - 1].stage;
    const stroke = hues[plan[i].stage];
    const kind = same ? "way" : "way handover";
    add("line", { class: kind, stroke, x1: a.x, y1: a.y, x2: b.x, y2: b.y });
  }
  plan.forEach(({ stage }, index) => {
    add("path", { class: "mark", d: spot(placeOf(plan, index)), stroke: hues[stage] });
  });
  add("path", { class: "dot", d: spot(placeOf(plan, 0)) });
  chart.replaceChildren(svg);
  const words = document.createElement("p");
  words.innerHTML = "<span>image</span><span>noise</span>";
  chart.append(words);
}
