// The sampling loop of ecar_lab/onnx/runtime.py, and so of ecar_lab/trace.py, name by name, in the
// visitor's browser. Arrays and graphs: arrays.js. The manifest is the manifest.json of
// `ecar export onnx`.

import {
  asArray, blockMean, each, inTwo, mean, perImage, repeat, rows, upsample, zerosLike,
} from "./arrays.js";
import { Generator } from "./random.js";

const FLOW_MAP = "flow-map";

// What a run is asked for where nothing else is: the manifest's own settings.
export function defaults(manifest) {
  return {
    steps: manifest.stages.map((stage) => stage.num_inference_steps),
    guidance: manifest.stages.map((stage) => stage.guidance_scale),
    intervals: manifest.stages.map((stage) => stage.guidance_interval),
    powers: manifest.stages.map((stage) => stage.time_power),
    solver: manifest.solver,
    noise: {}, // by stage, in place of the seeds'
    renoise: true,
    startFrom: null, // {history, cleanEstimate}: end states of stages that are passed; see painting.js
  };
}

// The loop, run(), and its parts. One sampler makes one run.
// settings: labels and seeds, one per image, and what takes the place of the defaults.
export class Sampler {
  constructor(manifest, graphs, settings) {
    this.manifest = manifest;
    this.graphs = graphs;
    this.settings = { ...defaults(manifest), ...settings };
    const { labels, seeds, steps, guidance, intervals, powers } = this.settings;
    this.batchSize = labels.length;
    this.guided = steps.map((count, s) => guidedSteps(count, guidance[s], intervals[s], powers[s]));
    this.halves = guidedHalves(manifest.mode === "few-step", this.guided);
    this.generators = seeds.map((seed) => new Generator(seed));
    this.cache = null; // (B, layers, 2, heads, tokens so far, d): keys and values
  }

  async *run() {
    let history = this.settings.startFrom?.history ?? [];
    let estimate = this.settings.startFrom?.cleanEstimate ?? null;
    for (let stage = 0; stage < history.length; stage++) { // passed: fill the cache again
      await this.callTransformer(stage, history);
    }
    for (let stage = history.length; stage < this.manifest.stages.length; stage++) {
      const at = await this.open(stage, history);
      let latent = this.start(at);
      estimate = estimate ? upsample(estimate, this.manifest.ratio) : zerosLike(latent);
      yield this.event(at, 0, latent, estimate, null);
      let previous = null; // velocity: each stage has a history of its own
      for (let step = 0; step < this.settings.steps[stage]; step++) {
        [latent, estimate, previous] = await this.step(at, latent, step, previous);
        yield this.event(at, step + 1, latent, estimate, previous);
      }
      history = [...history, latent];
    }
  }

  // The latent after a step, the clean estimate there, and the velocity to remember.
  async step(at, latent, step, previous) {
    const solve = STEPS_OF[this.settings.solver];
    const [ahead, slope] = await solve(at.velocity(step), latent, at.times, step, previous);
    const length = at.times[step + 1] - at.times[step];
    const used = each((a, x) => (a - x) / length, ahead, latent);
    const estimate = cleanEstimate(
      this.manifest, at.index, ahead, used, at.times[step + 1], at.previousEnd);
    return [ahead, estimate, slope];
  }

  // Calls the transformer, and makes ready what all flow steps of the stage share.
  async open(stage, history) {
    const [readMap, tokenMap] = await this.callTransformer(stage, history);
    const times = timeGrid(this.settings.steps[stage], this.settings.powers[stage]);
    return {
      index: stage,
      previousEnd: history.length ? history.at(-1) : null,
      times,
      velocity: this.velocity(stage, readMap, times),
      tokenMap,
      history,
    };
  }

  // One stage: what the head reads (its halves) and M_s (with class).
  async callTransformer(stage, history) {
    const [halves, headHalves] = this.halves[stage];
    const name = this.manifest.stages[stage].transformer;
    const inputs = this.manifest.graphs[name].inputs;
    const arrays = { class_labels: this.labels(halves) };
    if ("previous_end" in inputs) arrays.previous_end = repeat(history[stage - 1], halves);
    if ("cache" in inputs) arrays.cache = rows(this.cache, halves * this.batchSize);
    const out = await this.graphs[name].run(arrays);
    this.cache = out.new_cache ?? arrays.cache ?? null;
    const readMap = rows(out.read_map, headHalves * this.batchSize);
    return [readMap, rows(out.token_map, this.batchSize)];
  }

  // Of a step, v(x, i) at times[i].
  velocity(stage, readMap, times) {
    const head = this.graphs[this.manifest.stages[stage].head];
    const scale = this.settings.guidance[stage];
    return (step) => {
      const halves = this.halves[stage][1] > 1 && this.guided[stage][step] ? 2 : 1;
      return async (state, index) => {
        const arrays = {
          state: repeat(state, halves),
          read_map: rows(readMap, halves * this.batchSize),
          class_labels: this.labels(halves),
          local_time: asArray(times[index]),
        };
        if (this.manifest.mode === "few-step") {
          const [span, guidance] = this.spanAndGuidance(stage, times, index);
          arrays.span = asArray(span);
          arrays.guidance = asArray(guidance);
        }
        const output = (await head.run(arrays)).velocity;
        if (halves === 1) return output;
        const [withClass, without] = inTwo(output);
        return each((v, none) => none + scale * (v - none), withClass, without);
      };
    };
  }

  // What a few-step head is told at times[index]. The span is that of the step under flow-map;
  // other solvers ask for velocities, span 0.
  spanAndGuidance(stage, times, index) {
    const span = this.settings.solver === FLOW_MAP ? times[index + 1] - times[index] : 0;
    const guided = this.guided[stage][Math.min(index, this.guided[stage].length - 1)];
    return [span, guided ? this.settings.guidance[stage] : 1];
  }

  // x_start: noise, or the transition from the stage before.
  start(at) {
    const stage = this.manifest.stages[at.index];
    if (at.previousEnd && !this.settings.renoise) {
      return each((x) => stage.scale * x, upsample(at.previousEnd, this.manifest.ratio));
    }
    const noise = this.settings.noise[at.index]
      ?? this.white(this.manifest.latent_channels, stage.resolution);
    if (!at.previousEnd) return noise;
    return transition(this.manifest, at.index, at.previousEnd, noise);
  }

  // White noise (B, C, r, r), of each image from its own generator.
  white(channels, side) {
    const size = channels * side * side;
    const data = new Float32Array(this.batchSize * size);
    this.generators.forEach((one, image) => data.set(one.randn(size), image * size));
    return { data, dims: [this.batchSize, channels, side, side] };
  }

  // Labels of the half with class and, if there are two halves, of the one without.
  labels(halves) {
    const none = this.settings.labels.map(() => this.manifest.null_class);
    const all = halves === 1 ? this.settings.labels : [...this.settings.labels, ...none];
    return { data: BigInt64Array.from(all.map(BigInt)), dims: [all.length] };
  }

  event(at, step, latent, estimate, slope) {
    const [start, end] = this.manifest.stages[at.index].window;
    return {
      stage: at.index,
      step,
      numSteps: this.settings.steps[at.index],
      localTime: at.times[step],
      t: start + at.times[step] * (end - start),
      latent,
      cleanEstimate: estimate,
      velocityNorm: slope && perImage(slope).map((v) => Math.sqrt(mean(v.map((x) => x * x)))),
      tokenMap: at.tokenMap,
      history: at.history,
      guidance: this.settings.guidance[at.index],
    };
  }
}

// Local times of a stage's steps, from 0 to 1: tau_i = (i / K) ** power.
export function timeGrid(steps, power) {
  return Array.from({ length: steps + 1 }, (_, step) => (step / steps) ** power);
}

// Which of a stage's steps guidance acts in: those that start at low <= tau < high.
export function guidedSteps(steps, scale, [low, high], power) {
  return timeGrid(steps, power).slice(0, -1).map((tau) => scale !== 1 && low <= tau && tau < high);
}

// How many halves (with class; without) transformer and head need at each stage.
export function guidedHalves(fewStep, guided) {
  if (fewStep) return guided.map(() => [1, 1]);
  const stages = guided.map((steps) => steps.some(Boolean));
  return stages.map((here, stage) => [stages.slice(stage).some(Boolean) ? 2 : 1, here ? 2 : 1]);
}

// x_start of stage s >= 1: scale * Up(y) + sigma * eps.
function transition(manifest, stage, previousEnd, noise) {
  const { scale, sigma } = manifest.stages[stage];
  const ratio = manifest.ratio;
  if (manifest.coupling === "correlated") {
    const factor = Math.sqrt(ratio ** 2 / (ratio ** 2 - 1));
    noise = each((n, m) => factor * (n - m), noise, upsample(blockMean(noise, ratio), ratio));
  }
  return each((y, eps) => scale * y + sigma * eps, upsample(previousEnd, ratio), noise);
}

// The clean D_s(x) that a state and its velocity point to; see ecar_lab/flow.py.
function cleanEstimate(manifest, stage, state, velocity, localTime, previousEnd) {
  const startState = each((x, v) => x - localTime * v, state, velocity);
  const endState = each((x, v) => x + (1 - localTime) * v, state, velocity);
  const { scale, sigma, window: [start, end] } = manifest.stages[stage];
  const ratio = manifest.ratio;
  if (!previousEnd) return each((e, s) => (e - (1 - end) * s) / end, endState, startState);
  if (manifest.coupling !== "correlated") {
    return each(
      (e, s, y) => (e - (1 - end) * (s - scale * y) / sigma) / end,
      endState, startState, upsample(previousEnd, ratio));
  }
  const startMean = blockMean(startState, ratio);
  const endMean = blockMean(endState, ratio);
  const cleanMean = each(
    (e, s) => ((1 - start) * e - (1 - end) * s) / (end - start), endMean, startMean);
  const epsRest = each(
    (s, m) => (s - m) / (1 - start), startState, upsample(startMean, ratio));
  return each(
    (e, m, eps, clean) => clean + (e - m - (1 - end) * eps) / end,
    endState, upsample(endMean, ratio), epsRest, upsample(cleanMean, ratio));
}

// x + dt * v(x, t), and v.
async function eulerStep(velocity, state, times, step) {
  const slope = await velocity(state, step);
  const length = times[step + 1] - times[step];
  return [each((x, v) => x + length * v, state, slope), slope];
}

// Euler to look ahead, then the mean of both velocities.
async function heunStep(velocity, state, times, step) {
  const [ahead, first] = await eulerStep(velocity, state, times, step);
  const slope = each((a, b) => (a + b) / 2, first, await velocity(ahead, step + 1));
  const length = times[step + 1] - times[step];
  return [each((x, v) => x + length * v, state, slope), slope];
}

// x + dt (v + r / 2 (v - v')) with the velocity v' of the step before, r = dt / dt'.
async function ab2Step(velocity, state, times, step, previous) {
  const [ahead, slope] = await eulerStep(velocity, state, times, step);
  if (!previous) return [ahead, slope];
  const length = times[step + 1] - times[step];
  const factor = (length * length) / (2 * (times[step] - times[step - 1]));
  return [each((x, v, before) => x + factor * (v - before), ahead, slope, previous), slope];
}

const STEPS_OF = { euler: eulerStep, heun: heunStep, ab2: ab2Step, [FLOW_MAP]: eulerStep };
