// The live view of a batch. Python sends the HTML of each section when it has changed; here it is put into the page so
// that what has not changed stays as it is: what is unfolded stays unfolded, the focus stays where it was.

const SECTIONS = ["head", "states", "engines", "failures"];

function keyed(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
}

function attributes(old, made) {
  for (const { name } of [...old.attributes]) {
    // Whether a part is unfolded is the reader's choice.
    if (!made.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of made.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function become(old, made) {
  if (old.isEqualNode(made)) return;
  if (old.nodeType === Node.TEXT_NODE) {
    old.nodeValue = made.nodeValue;
    return;
  }
  attributes(old, made);
  children(old, made);
}

function children(old, made) {
  const known = new Map([...old.childNodes].filter(keyed).map((node) => [keyed(node), node]));
  let place = old.firstChild;
  for (const wanted of [...made.childNodes]) {
    const key = keyed(wanted);
    let found = key ? known.get(key) : place;
    if (found && (found.nodeName !== wanted.nodeName || keyed(found) !== key)) found = null;
    if (!found) {
      old.insertBefore(wanted, place);
      continue;
    }
    if (found === place) place = place.nextSibling;
    else old.insertBefore(found, place);
    become(found, wanted);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "sddfkit shown monitor";
  // JupyterLab keeps its shortcuts for itself where this is set.
  root.dataset.lmSuppressShortcuts = "true";
  const stop = [];
  const watch = (name, act) => {
    model.on(`change:${name}`, act);
    stop.push(() => model.off(`change:${name}`, act));
    act();
  };
  const said = document.createElement("p");
  said.className = "monitor-said";
  said.setAttribute("role", "status");
  for (const name of SECTIONS) {
    const section = document.createElement("div");
    section.className = `monitor-${name}`;
    root.append(section);
    watch(name, () => {
      const made = document.createElement("template");
      made.innerHTML = model.get(name);
      children(section, made.content);
    });
    if (name === "head") root.append(said);
  }
  watch("said", () => {
    said.textContent = model.get("said");
    said.hidden = !said.textContent;
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button) return;
    const of = button.dataset.class;
    said.hidden = false;
    said.textContent = "Asked; the answer comes when the kernel is free.";
    model.send({ do: button.dataset.do, classes: of ? [of] : [] });
  });
  el.append(root);
  return () => stop.forEach((end) => end());
}

export default { render };
