// What makes the page work without a network: a copy of its small files. The large ones the model's
// worker keeps itself (keep.js).
//
// The page registers this file with the number of its build, sw.js?build=..., so a new build brings
// a new copy, whole or not at all. Where there is a network, it is asked first.
//
// It also says that the page keeps to itself (COOP and COEP), as a plain web server does not. So
// from the second visit on the browser lets WebAssembly have threads.

const SCOPE = self.registration.scope;
const MINE = `ecar-lab-small ${SCOPE} `; // several such pages may live on one server
const STORE = MINE + new URL(self.location).searchParams.get("build");
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", (event) => {
  event.waitUntil(keepSmall().then(() => self.skipWaiting()));
});
self.addEventListener("activate", (event) => {
  event.waitUntil(forgetEarlier().then(() => self.clients.claim()));
});

async function keepSmall() {
  const lab = await (await fetch("lab.json", { cache: "no-cache" })).json();
  const store = await caches.open(STORE);
  const fresh = ["./", ...lab.small].map((place) => new Request(place, { cache: "no-cache" }));
  await store.addAll(fresh);
}

async function forgetEarlier() {
  const earlier = (await caches.keys()).filter((name) => name.startsWith(MINE) && name !== STORE);
  await Promise.all(earlier.map((name) => caches.delete(name)));
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(SCOPE)) event.respondWith(answer(request));
});

async function answer(request) {
  const place = request.url.split(/[?#]/)[0].replace(/\/index\.html$/, "/");
  const kept = await (await caches.open(STORE)).match(place);
  let found;
  try {
    found = await fetch(request);
    if (found.status >= 500 && kept) found = kept;
  } catch (error) {
    if (!kept) throw error;
    found = kept;
  }
  if (found.type === "opaque" || found.status === 0) return found;
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
