// The model, away from the page: it loads what it needs, makes runs one after the other, and can be
// stopped between any two calls of a graph.
//
// In: {kind: "load", lab, manifest, backend, threads}, {kind: "run", id, wish}, {kind: "stop"},
// {kind: "keep"}.
// Out: progress, ready, handed, frame, done, stopped, failed, kept; see model.js.

import { graphsOf } from "./arrays.js";
import { Sampler } from "./engine.js";
import { keep, writeDown } from "./keep.js";
import { expand, pictureOf, stageEndOf, stageNoise } from "./painting.js";
import { coloured, decoded } from "./pictures.js";

const RUNTIMES = {
  wasm: ["ort/ort.wasm.bundle.min.mjs", "ort/ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort/ort.webgpu.bundle.min.mjs", "ort/ort-wasm-simd-threaded.asyncify.wasm"],
};
const MOST_THREADS = 4;
const NEAR = 0.05; // latents have a standard deviation of about 1

class Stopped extends Error {}

let lab = null;
let manifest = null;
let graphs = null;
const fetched = {}; // bytes by name; a second way to compute finds there what the first has fetched
let wanted = 0; // the id of the run that is wanted now; any other one ends
let turn = Promise.resolve();
let opening = 0; // milliseconds that the opening of graphs has taken

const ACTS = {
  load: (message) => load(message),
  run({ id, wish }) {
    wanted = id;
    turn = turn.then(() => run(id, wish));
  },
  stop() {
    wanted = 0;
  },
  keep() {
    turn = turn.then(async () => self.postMessage({ kind: "kept", kept: await writeDown() }));
  },
};
self.onmessage = ({ data }) => ACTS[data.kind](data);

// -- loading --------------------------------------------------------------------------------------

async function load(asked) {
  ({ lab, manifest } = asked);
  try {
    const backend = await pickBackend(asked.backend);
    const loaded = await open(backend, asked.threads).catch((error) => {
      if (backend === "wasm") throw error;
      if (asked.backend) {
        throw new Error(`WebGPU does not work in this browser (${wordsOf(error)}): leave `
          + "backend=webgpu out of the address.");
      }
      return open("wasm", asked.threads); // a graphics driver that does not do its work
    });
    self.postMessage({ kind: "ready", ...loaded });
  } catch (error) {
    self.postMessage({ kind: "failed", id: 0, words: wordsOf(error) });
  }
}

async function pickBackend(asked) {
  if (asked) return asked;
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const software = adapter?.info?.isFallbackAdapter ?? adapter?.isFallbackAdapter;
  return adapter && !software ? "webgpu" : "wasm";
}

async function open(backend, threads) {
  const [module, wasm] = RUNTIMES[backend];
  const sizes = { [wasm]: lab.runtime[wasm] };
  for (const [name, said] of Object.entries(manifest.files)) sizes[`model/${name}`] = said;
  const total = Object.values(sizes).reduce((sum, said) => sum + said.bytes, 0);
  let come = 0;
  const onBytes = (bytes) => {
    come += bytes;
    self.postMessage({ kind: "progress", come, total });
  };
  const fetching = Object.entries(sizes).map(async ([name, said]) => {
    if (name in fetched) return onBytes(said.bytes);
    fetched[name] = await keep(new URL(name, import.meta.url).href, said, onBytes);
  });
  const importing = import(`./${module}`).catch(() => {
    throw new Error(`${module} did not arrive: load the page again.`);
  });
  const [ort] = await Promise.all([importing, ...fetching]);
  const many = Math.min(MOST_THREADS, navigator.hardwareConcurrency ?? 1);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads ?? many : 1;
  ort.env.wasm.wasmBinary = fetched[wasm].buffer;
  ort.env.logLevel = "error";
  const weights = Object.keys(manifest.files).filter((name) => !(name in manifest.graphs));
  const options = {
    executionProviders: [backend],
    externalData: weights.map((path) => ({ path, data: fetched[`model/${path}`] })),
    extra: { session: { disable_quant_qdq: "1" } },
    logSeverityLevel: 3,
  };
  graphs = graphsOf(ort, Object.keys(manifest.graphs), async (name) => {
    const started = performance.now();
    const session = await ort.InferenceSession.create(fetched[`model/${name}`], options);
    opening += performance.now() - started;
    return session;
  });
  if (backend === "webgpu") await prove(); // it may fail, or be wrong without a word
  return { backend, threads: ort.env.wasm.numThreads, bytes: total };
}

// A graphics driver has to come to the latent that the build came to.
async function prove() {
  const { seed, latent, stride } = lab.recorded;
  const onFrame = ({ final, state }) => {
    const near = latent.every((wanted, i) => Math.abs(state[i * stride] - wanted) <= NEAR);
    if (final && !near) throw new Error("it computes another image");
  };
  await sample({ labels: [0], seeds: [seed] }, { watch: graphs, onFrame });
}

// -- running --------------------------------------------------------------------------------------

async function run(id, wish) {
  const watch = {};
  for (const [name, graph] of Object.entries(graphs)) {
    watch[name] = {
      async run(arrays) {
        await breath();
        if (wanted !== id) throw new Stopped();
        return graph.run(arrays);
      },
    };
  }
  try {
    const started = performance.now() - opening;
    await sample(wish, {
      watch,
      onHanded: (pictures) => self.postMessage({ kind: "handed", id, pictures }),
      onFrame: (frame) => self.postMessage({ kind: "frame", id, frame }),
    });
    self.postMessage({ kind: "done", id, seconds: (performance.now() - opening - started) / 1000 });
  } catch (error) {
    if (error instanceof Stopped) self.postMessage({ kind: "stopped", id });
    else self.postMessage({ kind: "failed", id, words: wordsOf(error) });
  }
}

// wish: labels and seeds, one per image, and perhaps painted: {colours, stage}.
async function sample(wish, { watch, onFrame = () => {}, onHanded = () => {} }) {
  const settings = { labels: wish.labels, seeds: wish.seeds };
  const decode = async (latent) => decoded((await watch[manifest.decoder].run({ latent })).images);
  if (wish.painted) {
    const { colours, stage } = wish.painted;
    const picture = pictureOf(colours, lab.image_size);
    const { latent } = await watch[manifest.encoder].run({ images: picture });
    settings.noise = stageNoise(manifest, wish.seeds);
    const all = expand(latent, wish.labels.length);
    settings.startFrom = stageEndOf(manifest, all, stage, settings.noise);
    onHanded([
      decoded(picture),
      await decode(latent),
      coloured(settings.startFrom.cleanEstimate, lab.colours),
      coloured(settings.startFrom.history[stage], lab.colours),
    ]);
  }
  for await (const event of new Sampler(manifest, watch, settings).run()) {
    const { stage, step, numSteps, localTime, t, latent, cleanEstimate } = event;
    const final = stage === manifest.stages.length - 1 && step === numSteps;
    if (final && !latent.data.every(Number.isFinite)) {
      throw new Error("The last stage ended in numbers that make no image: load the page again.");
    }
    onFrame({
      stage, step, numSteps, localTime, t, final,
      state: latent.data,
      latent: coloured(latent, lab.colours),
      picture: await decode(final ? latent : cleanEstimate),
    });
  }
}

// Messages are read here: without it a stop would wait for the run's end.
const channel = new MessageChannel();
function breath() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

function wordsOf(error) {
  const words = String(error?.message ?? error);
  const full = error instanceof RangeError || /memory|alloc|Aborted/i.test(words);
  return full ? "There is not enough memory for the model in this browser." : words;
}
