// Arrays and graphs, as the sampling loop has them.
//
// An array is {data, dims}, as onnxruntime-web has it: a Float32Array, or a BigInt64Array of labels,
// and its shape. A graph is {run(arrays)}, which gives a promise of arrays by name.

// Graphs by name; ort is the module of onnxruntime-web, open(name) promises a session. A session is
// opened when its graph is first run.
export function graphsOf(ort, names, open) {
  const graphs = {};
  for (const name of names) {
    let session = null;
    graphs[name] = {
      async run(arrays) {
        const feeds = {};
        for (const [input, { data, dims }] of Object.entries(arrays)) {
          feeds[input] = new ort.Tensor(
            data instanceof Float32Array ? "float32" : "int64", data, dims);
        }
        session ??= open(name);
        return (await session).run(feeds);
      },
    };
  }
  return graphs;
}

// A number as graphs take it, (1,).
export function asArray(number) {
  return { data: Float32Array.of(number), dims: [1] };
}

// f of the numbers of arrays that have one shape.
export function each(f, first, ...rest) {
  const data = first.data.map((x, i) => f(x, ...rest.map((array) => array.data[i])));
  return { data, dims: first.dims };
}

export function zerosLike(array) {
  return each(() => 0, array);
}

// The first rows of an array, (B, ...).
export function rows(array, count) {
  const size = array.data.length / array.dims[0];
  return { data: array.data.slice(0, count * size), dims: [count, ...array.dims.slice(1)] };
}

export function repeat(array, halves) {
  if (halves === 1) return array;
  const data = new Float32Array(2 * array.data.length);
  data.set(array.data);
  data.set(array.data, array.data.length);
  return { data, dims: [2 * array.dims[0], ...array.dims.slice(1)] };
}

export function inTwo(array) {
  const half = array.data.length / 2;
  const dims = [array.dims[0] / 2, ...array.dims.slice(1)];
  return [{ data: array.data.slice(0, half), dims }, { data: array.data.slice(half), dims }];
}

export function perImage(array) {
  const size = array.data.length / array.dims[0];
  return Array.from(
    { length: array.dims[0] }, (_, image) => array.data.slice(image * size, (image + 1) * size));
}

export function mean(numbers) {
  return numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
}

// Nearest-neighbour: every pixel becomes a block; (B, C, r, r) -> (B, C, ratio r, ratio r).
export function upsample({ data, dims: [batch, channels, side] }, ratio) {
  const wide = side * ratio;
  const out = new Float32Array(batch * channels * wide * wide);
  for (let i = 0; i < out.length; i++) {
    const map = Math.floor(i / (wide * wide));
    const y = Math.floor((i / wide) % wide / ratio);
    out[i] = data[(map * side + y) * side + Math.floor((i % wide) / ratio)];
  }
  return { data: out, dims: [batch, channels, wide, wide] };
}

// Mean of every block; (B, C, ratio r, ratio r) -> (B, C, r, r).
export function blockMean({ data, dims: [batch, channels, wide] }, ratio) {
  const side = wide / ratio;
  const out = new Float32Array(batch * channels * side * side);
  for (let i = 0; i < data.length; i++) {
    const map = Math.floor(i / (wide * wide));
    const y = Math.floor((i / wide) % wide / ratio);
    out[(map * side + y) * side + Math.floor((i % wide) / ratio)] += data[i] / ratio ** 2;
  }
  return { data: out, dims: [batch, channels, side, side] };
}
