// A painting in place of the coarse stages: ecar_lab/interventions.py, stage_noise and stage_end_of,
// with the same names.

import { blockMean, each } from "./arrays.js";
import { Generator } from "./random.js";

// White noise of every stage, (B, C, r_s, r_s), as the runs of these seeds draw it.
export function stageNoise(manifest, seeds) {
  const generators = seeds.map((seed) => new Generator(seed));
  return manifest.stages.map(({ resolution }) => {
    const dims = [seeds.length, manifest.latent_channels, resolution, resolution];
    const size = dims[1] * dims[2] * dims[3];
    const data = new Float32Array(seeds.length * size);
    generators.forEach((one, image) => data.set(one.randn(size), image * size));
    return { data, dims };
  });
}

// Where a run would be at a stage's end if the clean latents (B, C, R, R) were what it is to become.
export function stageEndOf(manifest, latent, stage, noise) {
  const { ratio, stages } = manifest;
  const eps = [...noise];
  if (manifest.coupling === "correlated") {
    for (let s = stages.length - 1; s > 0; s--) {
      eps[s - 1] = each((mean) => ratio * mean, blockMean(eps[s], ratio));
    }
  }
  const levels = pyramid(latent, stages.length, ratio);
  const ends = levels.map((level, s) => {
    const end = stages[s].window[1];
    return each((x, e) => end * x + (1 - end) * e, level, eps[s]);
  });
  return { history: ends.slice(0, stage + 1), cleanEstimate: levels[stage] };
}

// D_0(x) ... D_{S-1}(x), coarsest first.
function pyramid(latent, count, ratio) {
  const levels = [latent];
  while (levels.length < count) levels.unshift(blockMean(levels[0], ratio));
  return levels;
}

// Cells as a picture (1, 3, size, size) in [-1, 1], each a square; colours such as "#0072b2", row by
// row.
export function pictureOf(colours, size) {
  const side = Math.round(Math.sqrt(colours.length));
  const data = new Float32Array(3 * size * size);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const cell = Math.floor((y * side) / size) * side + Math.floor((x * side) / size);
      const value = parseInt(colours[cell].slice(1), 16);
      [value >> 16, (value >> 8) & 255, value & 255].forEach((level, channel) => {
        data[(channel * size + y) * size + x] = level / 127.5 - 1;
      });
    }
  }
  return { data, dims: [1, 3, size, size] };
}

// The same image so many times.
export function expand({ data, dims }, count) {
  const out = new Float32Array(count * data.length);
  for (let image = 0; image < count; image++) out.set(data, image * data.length);
  return { data: out, dims: [count, ...dims.slice(1)] };
}
