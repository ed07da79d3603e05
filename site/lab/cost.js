// The work of an image, as the kit counted it when this page was built (lab.cost), beside a DiT's.

import { make } from "./dom.js";

const giga = (flops) => (flops / 1e9).toLocaleString("en", { maximumSignificantDigits: 3 });
const totalOf = ({ transformer, head }) => transformer + head;

export class Cost {
  constructor(parent, cost, hues) {
    this.cost = cost;
    const stages = cost.stages.map(totalOf);
    const ours = stages.reduce((sum, flops) => sum + flops, 0);
    const longest = Math.max(ours, cost.dit?.flops ?? 0);
    bar(parent, "E-CAR", ours, longest, stages, hues);
    if (cost.dit) {
      bar(parent, `DiT, ${cost.dit.steps} steps`, cost.dit.flops, longest, [cost.dit.flops], ["var(--dit)"]);
      const times = (cost.dit.flops / ours).toLocaleString("en", { maximumSignificantDigits: 2 });
      make("p", parent, {
        class: "verdict",
        text: `A DiT of as many parameters needs ${times} times the work for an image.`,
      });
    }
    const row = make("div", parent, { class: "shares", "aria-hidden": "true" });
    this.shares = stages.map((flops, stage) => {
      const share = make("span", row, { text: `${stage + 1}` });
      share.style.cssText = `flex-grow:${flops / ours};--hue:${hues[stage]}`;
      return share;
    });
    this.soFar = make("p", parent, { class: "note" });
    make("p", parent, {
      class: "note",
      text: "Work, counted from shapes, the decoder aside. It says nothing of quality (docs: Results).",
    });
  }

  // What a run has spent up to a moment, {stage, step, numSteps}; of stages that were painted only
  // the transformer runs. seconds: what this browser took.
  show({ stage, step, numSteps }, { seconds, labels, painted }) {
    let spent = 0;
    this.cost.stages.forEach(({ transformer, head }, s) => {
      const skipped = painted && s <= painted.stage;
      const share = skipped || s > stage ? 0 : s < stage ? 1 : step / numSteps;
      spent += (s <= stage ? transformer : 0) + share * head;
      this.shares[s].style.setProperty("--share", share);
    });
    const images = labels.length === 1 ? "" : ` for ${labels.length}`;
    const took = seconds === null ? "" : `, ${seconds.toFixed(2)} s here${images}`;
    this.soFar.textContent = `${giga(spent)} GFLOP an image so far${took}.`;
  }
}

function bar(parent, name, flops, longest, parts, hues) {
  const pair = make("div", parent, { class: "pair" });
  make("p", pair, { class: "bar-words", text: `${name}: ${giga(flops)} GFLOP` });
  const row = make("div", pair, { class: "bar", "aria-hidden": "true" });
  parts.forEach((part, index) => {
    make("span", row).style.cssText = `width:${(100 * part) / longest}%;background:${hues[index]}`;
  });
}
