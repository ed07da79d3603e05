// The current run: its link stands in the address of the page, and earlier runs of this browser are
// at hand. `element`, `props` and `watch` come from Gradio's HTML component; the value comes from
// shared/current.py, or from another component as the detail of `ecar:current`.

const KEPT = "ecar-runs"; // in localStorage: [{ title, query }], newest first
const MOST = 24;
const root = element.querySelector(".current");

const copy = make("button", "copy", "Copy link", root);
copy.type = "button";
copy.disabled = true;
const said = make("span", "said", "", root);
said.setAttribute("aria-live", "polite");
const earlier = make("details", "", "", root);
const summary = make("summary", "", "", earlier);
const list = make("ul", "", "", earlier);

// The address with this run in it; parameters that are not a run's stay.
function address(query) {
  const rest = new URLSearchParams(location.search);
  const others = [...rest].filter(([name]) => name.startsWith("__") || name === "view");
  const all = [new URLSearchParams(others).toString(), query].filter(Boolean).join("&");
  return `${location.pathname}${all ? "?" + all : ""}`;
}

function kept() {
  try {
    const runs = JSON.parse(localStorage.getItem(KEPT));
    return Array.isArray(runs) ? runs.filter((run) => run?.title && run?.query) : [];
  } catch {
    return []; // a browser that keeps nothing, or something else under that name
  }
}

function keep({ title, query }) {
  const runs = [{ title, query }, ...kept().filter((run) => run.query !== query)];
  try {
    localStorage.setItem(KEPT, JSON.stringify(runs.slice(0, MOST)));
  } catch {}
}

function drawEarlier() {
  const now = props.value?.query;
  const runs = kept().filter((run) => run.query !== now);
  earlier.hidden = !runs.length;
  summary.textContent = `Earlier runs (${runs.length})`;
  list.replaceChildren();
  for (const run of runs) {
    const link = make("a", "", run.title, make("li", "", "", list));
    link.href = address(run.query);
  }
}

function show() {
  const view = props.value;
  said.textContent = "";
  copy.disabled = !view?.query;
  if (view?.query) {
    history.replaceState(history.state, "", address(view.query));
    if (!view.go) keep(view); // one that a link names is kept when it has been made
  } else if (view) {
    history.replaceState(history.state, "", address(""));
    said.textContent = "This run is too long for a link: save its recipe in the tab Runs.";
  }
  drawEarlier();
}

copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    said.textContent = "Copied: whoever opens it gets this very image.";
  } catch {
    said.textContent = "Copy the address of this page: whoever opens it gets this very image.";
  }
});
document.addEventListener("ecar:current", (event) => {
  props.value = event.detail;
  show();
});
watch("value", show);
show();
