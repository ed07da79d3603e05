// The process in one line: class, then token map and flow of every stage with the upsampling between
// them, then the decoder. Players say where they are with `ecar:at`.

const list = element.querySelector(".pipeline");
const items = props.value.map(({ stage, part, name, hue }) => {
  const item = document.createElement("li");
  item.textContent = name;
  item.dataset.part = `${part}-${stage}`;
  if (hue) item.style.setProperty("--hue", hue);
  list.append(item);
  return item;
});

document.addEventListener("ecar:at", (event) => {
  const { stage, part } = event.detail;
  items.forEach((item) => {
    if (item.dataset.part === `${part}-${stage}`) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
});
document.addEventListener("ecar:wait", () => {
  items.forEach((item) => item.removeAttribute("aria-current"));
  items[0].setAttribute("aria-current", "step");
});
