// The page's side of the worker.

// Why the model cannot run here, in words, or null.
export function obstacle() {
  if (typeof WebAssembly !== "object" || typeof Worker !== "function") {
    return "This browser has no WebAssembly (or it is switched off), so the model cannot run here.";
  }
  // A function that needs SIMD: i8x16.popcnt of a splat.
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65,
    0, 253, 15, 253, 98, 11];
  if (!WebAssembly.validate(Uint8Array.from(simd))) {
    return "This browser's WebAssembly has no SIMD: with a newer one the model runs here.";
  }
  return null;
}

export class Model {
  // The worker starts at once; what it is to load is known a moment later.
  constructor() {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.last = 0;
    this.runs = new Map();
  }

  // {backend, threads, bytes}. options: backend, "wasm" or "webgpu", and threads, else what the
  // browser has; onProgress(come, total), bytes.
  load(lab, manifest, options = {}, onProgress = () => {}) {
    return new Promise((resolve, reject) => {
      this.worker.onmessage = ({ data }) => this.hear(data, { resolve, reject, onProgress });
      this.worker.onerror = ({ message }) => {
        const error = new Error(`The model's worker ended (${message || "a part of it is missing"}): load the page again.`);
        for (const run of [{ reject }, ...this.runs.values()]) run.reject(error);
      };
      this.worker.postMessage({ kind: "load", lab, manifest, ...options });
    });
  }

  // Whether the browser keeps what was fetched; after all runs that were asked for.
  keep() {
    this.worker.postMessage({ kind: "keep" });
    return new Promise((resolve) => { this.onKept = resolve; });
  }

  // The seconds that a run took, or null if it was stopped. wish: labels and seeds, one per image,
  // and perhaps painted. A new run stops the one before it. The model is loaded.
  run(wish, { onFrame = () => {}, onHanded = () => {} } = {}) {
    const id = ++this.last;
    this.worker.postMessage({ kind: "run", id, wish });
    return new Promise((resolve, reject) => {
      this.runs.set(id, { resolve, reject, onFrame, onHanded });
    });
  }

  stop() {
    this.worker.postMessage({ kind: "stop" });
  }

  close() {
    this.worker.terminate();
  }

  hear(message, { resolve, reject, onProgress }) {
    const run = this.runs.get(message.id);
    if (message.kind === "progress") onProgress(message.come, message.total);
    else if (message.kind === "ready") resolve(message);
    else if (message.kind === "kept") this.onKept(message.kept);
    else if (message.kind === "frame") run.onFrame(message.frame);
    else if (message.kind === "handed") run.onHanded(message.pictures);
    else {
      this.runs.delete(message.id);
      if (message.kind === "done") run.resolve(message.seconds);
      else if (message.kind === "stopped") run.resolve(null);
      else (run?.reject ?? reject)(new Error(message.words));
    }
  }
}
