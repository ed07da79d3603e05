// Large files: fetched once, with progress, checked against their SHA-256, and kept by the browser.

const STORE = "ecar-lab-large";

const later = []; // what is still to be written: the visitor waits for the image, not for the disk

// Writes what has been fetched. Whether all is kept: the page works without a network from then on.
// It is not where the browser has no room, or may keep nothing.
export async function writeDown() {
  const store = await storeHere();
  if (!store) return false;
  let all = true;
  for (const [url, bytes] of later.splice(0)) {
    await store.put(url, new Response(bytes)).catch(() => { all = false; });
  }
  return all;
}

// The bytes of a file. said: {bytes, sha256}; onBytes is told of every piece that has come.
export async function keep(url, said, onBytes) {
  const store = await storeHere();
  const kept = await store?.match(url).catch(() => null);
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer().catch(() => new ArrayBuffer(0)));
    if (await isRight(bytes, said)) {
      onBytes(bytes.length);
      return bytes;
    }
    await store.delete(url);
  }
  let bytes = await download(url, said, onBytes);
  if (!(await isRight(bytes, said))) { // perhaps of an earlier version of the page
    onBytes(-bytes.length);
    bytes = await download(url, said, onBytes, { cache: "reload" });
    if (!(await isRight(bytes, said))) {
      throw new Error(`${nameOf(url)} arrived damaged: load the page again.`);
    }
  }
  if (store) later.push([url, bytes]);
  return bytes;
}

// Only pages from https or from this machine may keep files.
async function storeHere() {
  try {
    return await self.caches?.open(STORE);
  } catch {
    return null; // forbidden by the visitor's settings
  }
}

async function download(url, said, onBytes, options = {}) {
  const answer = await fetch(url, options).catch(() => null);
  if (!answer?.ok) {
    const why = answer?.status ?? "no connection";
    throw new Error(`${nameOf(url)} did not arrive (${why}): load the page again.`);
  }
  const bytes = new Uint8Array(said.bytes);
  let place = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read().catch(() => {
      throw new Error(`${nameOf(url)} broke off on its way: load the page again.`);
    });
    if (done) break;
    bytes.set(value.subarray(0, bytes.length - place), place);
    place += value.length;
    onBytes(value.length);
  }
  return place === bytes.length ? bytes : new Uint8Array(place);
}

function nameOf(url) {
  return new URL(url).pathname.split("/").at(-1);
}

async function isRight(bytes, said) {
  if (bytes.length !== said.bytes) return false;
  if (!self.crypto?.subtle) return true; // neither kept nor checked: the page came over plain http
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === said.sha256;
}
