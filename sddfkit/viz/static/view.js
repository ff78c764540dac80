// The 3D view of reports and notebooks: called with 3Dmol.js, returns mount(root), which a page calls for each view.
(($3Dmol) => {
  "use strict";
  // Browsers silently drop the oldest of some sixteen WebGL contexts of a page: keep fewer, let go of those out of sight.
  const MOST_LIVE = 8;
  const live = new Set();
  const STICKS = { stick: { radius: 0.11, colorscheme: "Jmol" }, sphere: { scale: 0.22, colorscheme: "Jmol" } };
  const RAMP = [[0, 114, 178], [140, 140, 140], [230, 159, 0]]; // blue, grey, orange: Okabe and Ito

  const element = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value; else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  let webgl;
  const hasWebGL = () => {
    if (webgl === undefined) {
      const canvas = document.createElement("canvas");
      const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
      context?.getExtension("WEBGL_lose_context")?.loseContext();
      webgl = Boolean(context);
    }
    return webgl;
  };

  const ramp = (i, n) => {
    const at = n > 1 ? (2 * i) / (n - 1) : 0;
    const [from, to] = at < 1 ? [RAMP[0], RAMP[1]] : [RAMP[1], RAMP[2]];
    const mixed = from.map((c, k) => Math.round(c + (to[k] - c) * (at % 1 || (at === 2 ? 1 : 0))));
    return `rgb(${mixed})`;
  };

  // Carbon in the colour of its structure, all else in the colour of its element.
  const tinted = (colour, radius) => {
    const colorfunc = (atom) => (atom.elem === "C" ? colour : $3Dmol.elementColors.Jmol[atom.elem] ?? 0xff1493);
    return { stick: { radius, colorfunc } };
  };

  const atoms = ({ elements, bonds }, xyz) => {
    const made = elements.map((elem, k) => ({
      elem, index: k, serial: k, x: xyz[3 * k], y: xyz[3 * k + 1], z: xyz[3 * k + 2], bonds: [], bondOrder: [],
    }));
    for (const [i, j, order] of bonds) {
      for (const [from, to] of [[i, j], [j, i]]) {
        made[from].bonds.push(to);
        made[from].bondOrder.push(order);
      }
    }
    return made;
  };

  return (root) => {
    const { graphs, frames, overlay } = JSON.parse(root.querySelector("script.view-data").textContent);
    const note = root.querySelector(".view-note");
    if (!hasWebGL()) {
      note.textContent = "This browser offers no WebGL, so the 3D structures cannot be drawn here.";
      return null;
    }
    note.hidden = true;
    const n = frames.length;
    const state = { index: 0, overlay, hydrogens: !overlay, labels: "none", camera: null, playing: 0 };
    let viewer = null;
    let models = [];
    let drawn = [];

    const stage = element("div", { className: "view-stage", role: "img" });
    const still = element("img", { className: "view-still", alt: "", hidden: true });
    const holder = element("div", { className: "view-canvas" });
    stage.append(still, holder);
    const button = (text, title, onclick) => element("button", { type: "button", title, onclick }, text);
    const check = (text, checked, onchange) => {
      const box = element("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
      return element("label", {}, box, ` ${text}`);
    };

    const slider = element("input", { type: "range", min: 0, max: n - 1, value: 0, oninput: () => show(Number(slider.value)) });
    slider.setAttribute("aria-label", "structure");
    const picker = element("select", { className: "view-pick", onchange: () => show(picker.selectedIndex) },
      ...frames.map((frame, i) => element("option", { value: i }, `${i + 1}. ${frame.title}`)));
    picker.setAttribute("aria-label", "structure");
    const position = element("span", { className: "view-position" });
    const play = button("Play", "step through the structures", () => run(!state.playing));
    const hydrogens = check("Hydrogens", state.hydrogens, (on) => { state.hydrogens = on; drawn = []; draw(); });
    // Many structures with all their hydrogens are a thicket: they go with the overlay, and come back at a click.
    const overlaid = check("Overlay", overlay, (on) => {
      state.overlay = on;
      if (hydrogens.firstChild.checked === on) hydrogens.firstChild.click(); else draw();
      say();
    });
    overlaid.title = "all structures at once, blue to orange in their order (key: o)";
    const labels = element("select", { onchange: () => { state.labels = labels.value; label(); } },
      ...["no labels", "elements", "atom numbers"].map((text) => element("option", { value: text.split(" ")[0] }, text)));
    labels.setAttribute("aria-label", "labels");
    labels.value = "no";
    const stepping = element("div", { className: "view-controls view-stepping" },
      Object.assign(button("←", "previous (left arrow key)", () => show(state.index - 1)), { className: "view-previous" }),
      slider,
      Object.assign(button("→", "next (right arrow key)", () => show(state.index + 1)), { className: "view-next" }),
      position, picker);
    const options = element("div", { className: "view-controls" },
      ...(n > 1 ? [play, overlaid] : []),
      hydrogens,
      labels,
      check("Spin", false, (on) => { state.spin = on; viewer?.spin(on ? "y" : false); }),
      element("span", { className: "view-spacer" }),
      button("Reset", "the first orientation", () => { state.camera = null; viewer?.setView([0, 0, 0, 0, 0, 0, 0, 1]); zoom(); }),
      button("PNG", "save this picture", () => {
        if (viewer) element("a", { download: "structure.png", href: viewer.pngURI() }).click();
      }));
    const caption = element("div", { className: "view-caption" });
    caption.setAttribute("aria-live", "polite");
    root.append(stage, ...(n > 1 ? [stepping] : []), options, caption);

    const model = (i) => {
      if (!models[i]) {
        models[i] = viewer.addModel();
        models[i].addAtoms(atoms(graphs[frames[i].graph], frames[i].xyz));
      }
      return models[i];
    };
    const style = (i, role) => {
      const colour = ramp(i, n);
      if (role === "alone") return STICKS;
      return role === "first" ? tinted(colour, 0.15) : tinted(colour, 0.07);
    };
    const draw = () => {
      if (!viewer) return;
      for (let i = 0; i < n; i++) {
        const role = i === state.index ? (state.overlay ? "first" : "alone") : state.overlay ? "behind" : "hidden";
        if (drawn[i] === role || (role === "hidden" && !models[i])) continue;
        drawn[i] = role;
        if (role === "hidden") {
          models[i].hide();
          continue;
        }
        model(i).show();
        models[i].setStyle({}, style(i, role));
        if (!state.hydrogens) models[i].setStyle({ elem: "H" }, {});
      }
      label();
    };
    const label = () => {
      if (!viewer) return;
      viewer.removeAllLabels();
      const look = { fontSize: 13, fontColor: "white", backgroundColor: "black", backgroundOpacity: 0.75, alignment: "center", inFront: true };
      if (state.labels === "elements") {
        viewer.addPropertyLabels("elem", { model: models[state.index], not: { elem: ["C", "H"] } }, look);
      } else if (state.labels === "atom") {
        const selected = { model: models[state.index], ...(state.hydrogens ? {} : { not: { elem: "H" } }) };
        viewer.addPropertyLabels("serial", selected, look);
      }
      viewer.render();
    };
    const zoom = () => {
      if (!viewer) return;
      viewer.zoomTo(state.overlay ? {} : { model: models[state.index] });
      viewer.zoom(stage.clientWidth > 1.4 * stage.clientHeight ? 1.15 : 0.95);
      viewer.render();
    };

    const say = () => {
      const frame = frames[state.index];
      slider.value = state.index;
      slider.setAttribute("aria-valuetext", `${state.index + 1} of ${n}, ${frame.title}`);
      picker.selectedIndex = state.index;
      position.textContent = `${state.index + 1} of ${n}`;
      caption.replaceChildren(element("strong", {}, frame.title), frame.caption ? `  ${frame.caption}` : "");
      caption.style.setProperty("--tint", state.overlay ? ramp(state.index, n) : "transparent");
      stage.setAttribute("aria-label", `3D structure of ${frame.title}. ${frame.caption}`);
    };
    const show = (index) => {
      const before = frames[state.index];
      state.index = (index + n) % n;
      draw();
      // Structures of one molecule are aligned: the reader's viewpoint stays between them.
      if (frames[state.index].graph !== before.graph && !state.overlay) zoom();
      say();
    };
    const run = (on) => {
      clearInterval(state.playing);
      state.playing = on ? setInterval(() => (root.isConnected ? show(state.index + 1) : run(false)), 700) : 0;
      play.textContent = on ? "Pause" : "Play";
    };

    const view = {
      show,
      visible: false,
      open() {
        if (viewer) return;
        for (const other of live) if (!other.connected()) other.close();
        for (const other of live) if (live.size >= MOST_LIVE && !other.visible) other.close();
        viewer = $3Dmol.createViewer(holder, { backgroundAlpha: 0, antialias: true });
        live.add(view);
        models = [];
        drawn = [];
        draw();
        if (state.camera) viewer.setView(state.camera); else zoom();
        viewer.render();
        if (state.spin) viewer.spin("y");
        still.hidden = true;
      },
      close() {
        state.camera = viewer.getView();
        viewer.spin(false);
        still.src = viewer.pngURI();
        still.hidden = false;
        const canvas = viewer.getCanvas();
        (canvas.getContext("webgl2") || canvas.getContext("webgl"))?.getExtension("WEBGL_lose_context")?.loseContext();
        holder.replaceChildren();
        viewer = null;
        live.delete(view);
      },
      connected: () => root.isConnected,
    };
    new IntersectionObserver((entries) => {
      view.visible = entries.at(-1).isIntersecting;
      if (view.visible) view.open();
    }, { rootMargin: "200px" }).observe(stage);

    stage.addEventListener("pointerdown", () => root.focus({ preventScroll: true }), true);
    // A page that scrolls past must not stop at the view: it takes the wheel only while it has the focus.
    stage.addEventListener("wheel", (event) => {
      if (!root.contains(document.activeElement)) event.stopPropagation();
    }, { capture: true, passive: true });
    root.addEventListener("keydown", (event) => {
      if (["SELECT", "TEXTAREA"].includes(event.target.tagName) || event.target.type === "range") return;
      if (event.ctrlKey || event.metaKey || event.altKey || n === 1) return;
      const target = { ArrowLeft: state.index - 1, ArrowRight: state.index + 1, Home: 0, End: n - 1 }[event.key];
      if (target !== undefined) show(target);
      else if (event.key === "o") overlaid.firstChild.click();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    say();
    root.sddfkitView = view;
    return view;
  };
})
