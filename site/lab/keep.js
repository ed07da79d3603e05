// Large files: fetched once, with progress, checked against their SHA-256, and kept by the browser.

const STORE = "ecar-lab-large";

const later = []; // what is still to be written: the visitor waits for the image, not for the disk

// Writes what has been fetched; the page works without a network from then on.
export async function writeDown() {
  const store = await storeHere();
  for (const [url, bytes] of later.splice(0)) {
    await store.put(url, new Response(bytes)).catch(() => {}); // a full disk: it is fetched again
  }
  return Boolean(store);
}

// The bytes of a file. said: {bytes, sha256}; onBytes is told of every piece that has come.
export async function keep(url, said, onBytes) {
  const store = await storeHere();
  const kept = await store?.match(url);
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
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
    if (!(await isRight(bytes, said))) throw new Error(`${url} arrived damaged: load the page again`);
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
    throw new Error(`${url} did not arrive (${answer?.status ?? "no connection"}): load the page again`);
  }
  const bytes = new Uint8Array(said.bytes);
  let place = 0;
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value.subarray(0, bytes.length - place), place);
    place += value.length;
    onBytes(value.length);
  }
  return place === bytes.length ? bytes : new Uint8Array(place);
}

async function isRight(bytes, said) {
  if (bytes.length !== said.bytes) return false;
  if (!self.crypto?.subtle) return true; // neither kept nor checked: the page came over plain http
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === said.sha256;
}
