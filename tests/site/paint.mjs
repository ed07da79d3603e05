// Reads {manifest, seeds, latent, colours, size} and writes the noise of each stage, where a run would
// be at the end of each stage but the last, and the colours as a picture.
import { readFileSync } from "node:fs";
import { pictureOf, stageEndOf, stageNoise } from "../../site/lab/painting.js";

const { manifest, seeds, latent, colours, size } = JSON.parse(readFileSync(0, "utf8"));
const plain = ({ data, dims }) => ({ data: Array.from(data), dims });
const noise = stageNoise(manifest, seeds); // as texts: not every seed is a number of JavaScript
const clean = { data: Float32Array.from(latent.data), dims: latent.dims };
const ends = manifest.stages.slice(0, -1).map((_, stage) => {
  const { history, cleanEstimate } = stageEndOf(manifest, clean, stage, noise);
  return { history: history.map(plain), cleanEstimate: plain(cleanEstimate) };
});
console.log(JSON.stringify({ noise: noise.map(plain), ends, picture: plain(pictureOf(colours, size)) }));
