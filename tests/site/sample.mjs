// Reads {manifest, runs}, the settings of several runs, and writes the events of each on the stand-in
// networks of test_lab.py, which are these lines in Python.
import { readFileSync } from "node:fs";
import { Sampler } from "../../site/lab/engine.js";

const { manifest, runs } = JSON.parse(readFileSync(0, "utf8"));
const rowsOf = ({ data, dims }) => {
  const size = data.length / dims[0];
  return Array.from({ length: dims[0] }, (_, i) => data.slice(i * size, (i + 1) * size));
};
const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);

const transformer = (stage) => ({
  async run({ class_labels, previous_end, cache }) {
    const labels = Array.from(class_labels.data, Number);
    const before = cache ? rowsOf(cache) : labels.map(() => []);
    const kept = labels.map((label, i) => [...before[i], 0.1 * label + stage]);
    const ends = previous_end ? rowsOf(previous_end).map((end) => sum(end) / end.length) : null;
    const map = kept.map((row, i) => sum(row) + (ends ? ends[i] : 0));
    const token_map = { data: Float32Array.from(map), dims: [labels.length, 1, 1] };
    const new_cache = { data: Float32Array.from(kept.flat()), dims: [labels.length, stage + 1] };
    const last = stage === manifest.stages.length - 1;
    return last ? { token_map, read_map: token_map } : { token_map, read_map: token_map, new_cache };
  },
});
const head = {
  async run({ state, read_map, class_labels, local_time, span, guidance }) {
    const told = span ? 0.2 * span.data[0] + 0.05 * guidance.data[0] : 0;
    const size = state.data.length / state.dims[0];
    const data = state.data.map((x, i) => {
      const row = Math.floor(i / size);
      const label = Number(class_labels.data[row]);
      return Math.cos(local_time.data[0]) * 0.3 * x + 0.1 * read_map.data[row] + 0.1 * label + told;
    });
    return { velocity: { data, dims: state.dims } };
  },
};

const arrayOf = ({ data, dims }) => ({ data: Float32Array.from(data), dims });
const graphs = {};
manifest.stages.forEach((stage, index) => {
  graphs[stage.transformer] = transformer(index);
  graphs[stage.head] = head;
});
const written = [];
for (const { start_from, ...settings } of runs) {
  if (start_from) {
    const { history, clean_estimate } = start_from;
    settings.startFrom = { history: history.map(arrayOf), cleanEstimate: arrayOf(clean_estimate) };
  }
  const events = [];
  for await (const event of new Sampler(manifest, graphs, settings).run()) {
    events.push({
      stage: event.stage,
      step: event.step,
      t: event.t,
      latent: Array.from(event.latent.data),
      clean_estimate: Array.from(event.cleanEstimate.data),
      velocity_norm: event.velocityNorm,
      shape: event.latent.dims,
    });
  }
  written.push(events);
}
console.log(JSON.stringify(written));
