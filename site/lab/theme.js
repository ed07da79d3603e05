// Before the page is drawn, so that it does not flash: the visitor's own choice, if there was one.
try {
  const chosen = localStorage.getItem("ecar-lab-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch { /* storage is forbidden: the system's theme */ }
