// Arrays as pictures: {side, data}, RGBA of a batch of squares one after the other.

// Images (B, 3, H, W) in [-1, 1].
export function decoded({ data, dims: [batch, channels, side] }) {
  const size = side * side;
  const rgba = new Uint8ClampedArray(batch * size * 4).fill(255);
  for (let image = 0; image < batch; image++) {
    for (let channel = 0; channel < channels; channel++) {
      const start = (image * channels + channel) * size;
      for (let i = 0; i < size; i++) {
        rgba[(image * size + i) * 4 + channel] = (data[start + i] + 1) * 127.5;
      }
    }
  }
  return { side, data: rgba };
}

// Latents (B, C, r, r): rgb = latent @ weight + bias per cell; ecar_lab/viz/colours.py.
export function coloured({ data, dims: [batch, channels, side] }, { weight, bias }) {
  const size = side * side;
  const rgb = new Float32Array(batch * 3 * size);
  for (let image = 0; image < batch; image++) {
    for (let k = 0; k < 3; k++) {
      for (let i = 0; i < size; i++) {
        let sum = bias[k];
        for (let c = 0; c < channels; c++) {
          sum += data[(image * channels + c) * size + i] * weight[c][k];
        }
        rgb[(image * 3 + k) * size + i] = sum;
      }
    }
  }
  return decoded({ data: rgb, dims: [batch, 3, side, side] });
}

// One image of a picture into a canvas, pixel by pixel; CSS enlarges it.
export function draw(canvas, picture, image = 0) {
  const { side, data } = picture;
  canvas.width = canvas.height = side;
  const size = side * side * 4;
  const pixels = new ImageData(data.slice(image * size, (image + 1) * size), side, side);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.classList.remove("empty");
}

export function clear(canvas) {
  canvas.width = canvas.height = 1;
  canvas.classList.add("empty");
}

// The runs that the build made: the frames of one run with an image per class. lab.recorded says
// what stands where in its picture: a column per frame, two rows per class.
export async function recordedRun(recorded, labels) {
  const image = new Image();
  image.src = recorded.file;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { cell } = recorded;
  const strip = (column, part) => {
    const data = new Uint8ClampedArray(labels.length * cell * cell * 4);
    labels.forEach((label, index) => {
      const pixels = context.getImageData(column * cell, (2 * label + part) * cell, cell, cell);
      data.set(pixels.data, index * cell * cell * 4);
    });
    return { side: cell, data };
  };
  return recorded.frames.map((frame, column) => (
    { ...frame, picture: strip(column, 0), latent: strip(column, 1) }));
}
