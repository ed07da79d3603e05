async ({ bundle, entry }) => {
  // Gradio's modules from one answer: each becomes a blob, and an import map leads to it from the
  // address that the others import it by. Anything that goes wrong: the page loads file by file.
  const folder = new URL("./assets/", document.baseURI).href;
  const add = (tag, attributes, text = "") => {
    const node = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.textContent = text;
    document.head.append(node);
  };
  let files;
  try {
    if (!HTMLScriptElement.supports?.("importmap")) throw new Error("no import maps");
    const answer = await fetch(new URL(bundle, document.baseURI));
    if (!answer.ok) throw new Error(`${bundle}: ${answer.status}`);
    files = await answer.json();
  } catch (error) {
    console.info("loading file by file:", error.message);
    add("script", { type: "module", crossorigin: "", src: folder + entry });
    return;
  }
  const imports = {};
  let styles = "";
  for (const [name, text] of Object.entries(files)) {
    const address = folder + name;
    if (name.endsWith(".css")) {
      styles += text.replace(/url\((["']?)\.\//g, `url($1${folder}`);
      // What is on the page already is not loaded again; this one never is.
      add("link", { rel: "stylesheet", disabled: "", href: address });
    } else {
      const own = text
        .replace(/(["'`])\.\/([\w.-]+\.(?:js|css))\1/g, `$1${folder}$2$1`)
        .replaceAll("import.meta.url", JSON.stringify(address));
      imports[address] = URL.createObjectURL(new Blob([own], { type: "text/javascript" }));
      add("link", { rel: "bundled", href: address });
    }
  }
  add("style", {}, styles);
  add("script", { type: "importmap" }, JSON.stringify({ imports }));
  add("script", { type: "module" }, `import ${JSON.stringify(folder + entry)};`);
}
