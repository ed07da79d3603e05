// The views of one picture: sections of figures and tables, and a slider over bits. All pictures are
// there when the views arrive, so the slider asks nobody. `element`, `props` and `watch` come from
// Gradio's HTML component.

const root = element.querySelector(".views");
let view = null;
let bits = 3; // kept from picture to picture

const url = (file) => served(`${view.folder}/${file}`);

function figure(data, parent) {
  const node = make("figure", "", "", parent);
  if (data.hue) node.style.setProperty("--hue", data.hue);
  if (data.share) node.style.setProperty("--share", data.share);
  const image = make("img", data.hue ? "staged" : "", "", node);
  image.src = url(data.file);
  image.alt = data.alt;
  const caption = make("figcaption", "", data.caption, node);
  if (data.note) make("span", "note", data.note, caption);
  return { image, caption };
}

function table(data, parent) {
  const scroll = make("div", "costs", "", parent);
  const node = make("table", "", "", scroll);
  make("caption", "", data.caption, node);
  const head = make("tr", "", "", make("thead", "", "", node));
  data.head.forEach((text) => (make("th", "", text, head).scope = "col"));
  const body = make("tbody", "", "", node);
  data.rows.forEach(([name, ...cells]) => {
    const row = make("tr", "", "", body);
    make("th", "", name, row).scope = "row";
    cells.forEach((cell) => make("td", "", cell, row));
  });
}

function section(data) {
  const node = make("section", "", "", root);
  make("h2", "", data.title, node);
  make("p", "", data.text, node);
  return node;
}

function rounding(data) {
  const node = section(data);
  node.classList.add("rounding");
  const label = make("label", "bits", "Bits per number ", node);
  const slider = make("input", "", "", label);
  const last = data.steps[data.steps.length - 1].bits;
  Object.assign(slider, { type: "range", min: data.steps[0].bits, max: last, step: 1, value: bits });
  const shown = make("output", "", "", label);
  const pair = make("div", "figures", "", node);
  figure(data.continuous, pair);
  const rounded = figure(data.steps[0], pair);
  rounded.caption.setAttribute("aria-live", "polite");
  const curve = make("table", "curve", "", make("div", "costs", "", node));
  make("caption", "", `PSNR in dB by bits per number; continuous: ${data.continuous.psnr.toFixed(1)}`, curve);
  const head = make("tr", "", "", make("thead", "", "", curve));
  const body = make("tr", "", "", make("tbody", "", "", curve));
  make("th", "", "Bits", head).scope = "row";
  make("th", "", "PSNR", body).scope = "row";
  const cells = data.steps.map((step) => {
    make("th", "", `${step.bits}`, head).scope = "col";
    return make("td", "", step.psnr.toFixed(1), body);
  });
  const show = () => {
    bits = Number(slider.value);
    const index = data.steps.findIndex((step) => step.bits === bits);
    const step = data.steps[index];
    rounded.image.src = url(step.file);
    rounded.image.alt = step.alt;
    rounded.caption.textContent = step.caption;
    shown.textContent = `${bits}`;
    slider.setAttribute("aria-valuetext", step.caption);
    cells.forEach((cell, place) => cell.classList.toggle("now", place === index));
  };
  slider.addEventListener("input", show);
  show();
  return node;
}

function receive() {
  if (!props.value?.sections || view?.run === props.value.run) return;
  view = props.value;
  root.replaceChildren();
  announce(root, 0, "decode");
  const title = make("p", "title", `Picture: ${view.title}`, root);
  title.setAttribute("role", "status");
  view.sections.forEach((data) => {
    const node = section(data);
    const beside = make("div", "beside", "", node);
    const figures = make("div", data.columns ? "figures columns" : "figures", "", beside);
    if (data.columns) figures.style.setProperty("--columns", data.columns);
    data.figures.forEach((one) => figure(one, figures));
    if (data.table) table(data.table, beside);
  });
  const last = rounding(view.rounding);
  if (view.trained) {
    make("p", "quoted", view.trained.text, last);
    table(view.trained.table, last);
  }
}

watch("value", receive);
receive();
