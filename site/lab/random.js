// The numbers that torch.randn draws on a CPU: the same seed, the same noise as in Python.
// ecar_lab/onnx/random.py says how; this is the same, with the Mersenne Twister written out.

const BLOCK = 16;

// mt19937: words of 32 bits.
class Words {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed))); // torch reads no more of a seed
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, last) + i;
    }
    this.place = 624;
  }

  next() {
    if (this.place === 624) this.turn();
    let word = this.state[this.place++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  turn() {
    const state = this.state;
    for (let i = 0; i < 624; i++) {
      const both = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (both >>> 1) ^ (both & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }
}

export class Generator {
  constructor(seed) {
    this.words = new Words(seed);
    this.leftOver = null; // the second of a pair that was asked for by halves
  }

  // White noise: a Float32Array of so many numbers.
  randn(count) {
    return count >= BLOCK ? this.inBlocks(count) : this.oneByOne(count);
  }

  // What is left over at the end belongs to a block that is drawn anew, over the numbers before it.
  inBlocks(count) {
    const numbers = this.uniform(count);
    for (let start = 0; start + BLOCK <= count; start += BLOCK) {
      boxMuller(numbers.subarray(start, start + BLOCK));
    }
    if (count % BLOCK) {
      numbers.set(this.uniform(BLOCK), count - BLOCK);
      boxMuller(numbers.subarray(count - BLOCK));
    }
    return numbers;
  }

  // 24 bits of a word each, in [0, 1).
  uniform(count) {
    return Float32Array.from({ length: count }, () => (this.words.next() & 0xffffff) / 2 ** 24);
  }

  oneByOne(count) {
    const numbers = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      if (this.leftOver !== null) {
        numbers[i] = this.leftOver;
        this.leftOver = null;
        continue;
      }
      const turn = this.uniformDouble();
      const share = this.uniformDouble();
      const radius = Math.sqrt(-2 * Math.log1p(-share));
      const angle = 2 * Math.PI * turn;
      numbers[i] = radius * Math.cos(angle);
      this.leftOver = radius * Math.sin(angle);
    }
    return numbers;
  }

  // 53 bits of two words, in [0, 1).
  uniformDouble() {
    const high = this.words.next() & 0x1fffff;
    return (high * 2 ** 32 + this.words.next()) / 2 ** 53;
  }
}

// Sixteen uniform numbers to normal ones, in place; their pairs lie eight apart.
function boxMuller(block) {
  for (let j = 0; j < BLOCK / 2; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[j]));
    const angle = Math.fround(2 * Math.PI) * block[j + BLOCK / 2];
    block[j] = radius * Math.cos(angle);
    block[j + BLOCK / 2] = radius * Math.sin(angle);
  }
}
