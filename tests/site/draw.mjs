// Reads [[seed, [size, ...]], ...] and writes what each generator draws, one size after the other.
import { readFileSync } from "node:fs";
import { Generator } from "../../site/lab/random.js";

const asked = JSON.parse(readFileSync(0, "utf8"));
const drawn = asked.map(([seed, sizes]) => {
  const generator = new Generator(seed); // as a text: not every seed is a number of JavaScript
  return sizes.map((size) => Array.from(generator.randn(size)));
});
console.log(JSON.stringify(drawn));
