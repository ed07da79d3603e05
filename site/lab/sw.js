// What makes the page work without a network: small files are fetched anew where there is one, and
// a copy is kept; large ones the model's worker keeps itself (keep.js).
//
// It also says that the page keeps to itself (COOP and COEP), as a plain web server does not. So
// from the second visit on the browser lets WebAssembly have threads.

const STORE = "ecar-lab-small";
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  event.waitUntil(keepSmall().then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function keepSmall() {
  const lab = await (await fetch("lab.json")).json();
  const store = await caches.open(STORE);
  await store.addAll(["./", ...lab.small]);
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const here = request.url.startsWith(self.registration.scope);
  if (request.method === "GET" && here) event.respondWith(answer(request));
});

async function answer(request) {
  const store = await caches.open(STORE);
  const place = request.url.split(/[?#]/)[0];
  const kept = await store.match(place);
  let found;
  try {
    found = await fetch(request);
    if (found.ok && kept) await store.put(place, found.clone());
  } catch (error) {
    if (!kept) throw error;
    found = kept;
  }
  if (found.type === "opaque" || found.status === 0) return found;
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
