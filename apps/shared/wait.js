// Who waits for the model, by name (the id of the piece that shows the run). Events on the document,
// of which the detail is the name: `ecar:wait` (a run has been asked for), `ecar:stopping` (it was told
// to stop) and `ecar:stop` (it has really ended). Runs of a name come one after the other, so the k-th
// end belongs to the k-th run: `event.run` counts them, and `event.cut` says that it ended early.

window.ecarRuns ??= {};
window.ecarTell ??= (event, name) => {
  const own = (window.ecarRuns[name] ??= { begun: 0, ended: 0, resting: false, stopping: false });
  const tell = (kind, more) =>
    document.dispatchEvent(Object.assign(new CustomEvent(`ecar:${kind}`, { detail: name }), more));
  if (event === "press" || event === "wait") {
    own.begun += 1;
    own.resting ||= event === "press";
    tell("wait", { run: own.begun });
  } else if (event === "stopping") {
    own.stopping = true;
    tell("stopping", { run: own.begun });
  } else if (event !== "rest") {
    const cut = own.stopping || event === "broken";
    if (event !== "settled") own.resting = false;
    own.ended = Math.min(own.begun, own.ended + 1);
    own.stopping = false;
    tell("stop", { run: own.ended, cut });
  }
};

// A click counts at once, not when Gradio comes to it: until the run has ended a second one is none.
if (!window.ecarListens) {
  window.ecarListens = true;
  document.addEventListener("click", (event) => {
    for (const kind of event.target.closest?.("button")?.classList ?? []) {
      const [, what, name] = kind.match(/^ecar-(run|stop)--(.+)$/) ?? [];
      if (!what) continue;
      const { begun = 0, ended = 0, resting, stopping } = window.ecarRuns[name] ?? {};
      const fits = what === "run" ? !resting : begun > ended && !stopping;
      if (fits) window.ecarTell(what === "run" ? "press" : "stopping", name);
      else event.stopImmediatePropagation();
    }
  }, true); // prettier-ignore
}

// Whether the run of a name was told to stop: what still arrives of it is not shown.
function stopping(name) {
  return Boolean(window.ecarRuns[name]?.stopping);
}

// Marks a piece as waiting, from the click until its run has ended, and says so in its status line. A
// piece that shows something of the run takes the class `waiting` off; where nothing came, or the run
// was cut, `ended(cut)` puts the line right. An end of an earlier run than the last is not heard.
function awaits(root, status, ended) {
  const name = root.dataset.name;
  let run = 0;
  const on = (kind, act) =>
    document.addEventListener(`ecar:${kind}`, (event) => {
      if (event.detail === name) act(event);
    });
  on("wait", (event) => {
    run = event.run;
    root.classList.add("waiting");
    root.setAttribute("aria-busy", "true");
    status.textContent = "Waiting for the model …";
  });
  on("stopping", () => (status.textContent = "Stopping …"));
  on("stop", (event) => {
    if (event.run < run || !root.hasAttribute("aria-busy")) return;
    const unseen = root.classList.contains("waiting");
    root.classList.remove("waiting");
    root.removeAttribute("aria-busy");
    if (event.cut || unseen) ended(event.cut);
  });
}
