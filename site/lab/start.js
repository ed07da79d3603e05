// Starts the page. Whatever is in the way of that is said: a part that is missing, damaged or of
// another build, a page that was opened as a file.
import("./main.js").catch((error) => {
  const reason = error.constructor === Error ? error.message
    : `a part of it did not arrive or is of another build (${error.message})`;
  const words = location.protocol === "file:"
    ? "This page was opened as a file, and browsers let no file load its parts: show it with a web "
      + "server, as make lab-serve does."
    : `This page does not start: ${reason}. Load it again; if that does not help, it has to `
      + "be built again.";
  for (const node of document.querySelectorAll("button, input, select")) node.disabled = true;
  document.getElementById("engine").textContent = "Not started";
  document.getElementById("progress").hidden = true;
  const banner = document.getElementById("banner");
  banner.hidden = false;
  banner.textContent = words;
  document.body.dataset.state = "broken";
});
