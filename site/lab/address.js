// What the address asks for: #view=all&class=frog&seed=7 says what is shown, ?backend=wasm&threads=2
// how it is computed. What cannot be had is named, and something else is taken.

export const VIEWS = ["one", "all", "paint"];
export const LAST_SEED = 2 ** 32 - 1;
const BACKENDS = ["wasm", "webgpu"];
const MOST_THREADS = 16;

// The number that a text of digits stands for, or null where it is no seed.
export function seedOf(text) {
  return /^\d+$/.test(text) && Number(text) <= LAST_SEED ? Number(text) : null;
}

// {view, label, seed, options, remarks}; first: {label, seed}, names: of the classes, views: that
// this page has.
export function readAddress(first, names, views) {
  const remarks = [];
  const pick = (said, key, [read, possible], instead, shown = instead) => {
    const asked = said.get(key);
    if (asked === null) return instead;
    const value = read(asked);
    if (value !== null) return value;
    remarks.push(`The address asks for ${key} “${cut(asked)}”, possible is ${possible}: this is ${shown}.`);
    return instead;
  };
  const among = (list, words = list.join(" or ")) => [
    (asked) => (list.includes(asked) ? asked : null), words];
  const fragment = new URLSearchParams(location.hash.slice(1));
  const query = new URLSearchParams(location.search);
  const name = pick(fragment, "class", among(names, "what the page lists"), names[first.label]);
  return {
    view: pick(fragment, "view", among(views), "one", "one image"),
    label: names.indexOf(name),
    seed: pick(fragment, "seed", [seedOf, `a whole number from 0 to ${LAST_SEED}`], first.seed),
    options: {
      backend: pick(query, "backend", among(BACKENDS), undefined, "what the browser has"),
      threads: pick(query, "threads", [threadsOf, `1 to ${MOST_THREADS}`], undefined, "as many as the browser has"),
    },
    remarks,
  };
}

export function writeAddress(view, name, seed) {
  history.replaceState(null, "", `#${new URLSearchParams({ view, class: name, seed })}`);
}

function threadsOf(text) {
  const count = seedOf(text);
  return count >= 1 && count <= MOST_THREADS ? count : null;
}

function cut(text) {
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
