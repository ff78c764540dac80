// The report's few moving parts: the 3D viewer, links from a table row to it, and folded parts that print unfolded.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((d) => { d.open = true; d.dataset.folded = "yes"; });
  });
  window.addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-folded]").forEach((d) => { d.open = false; delete d.dataset.folded; });
  });

  const figure = byId("viewer");
  if (!figure) return;
  const structures = JSON.parse(byId("viewer-structures").textContent);

  const hasWebGL = () => {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  };
  if (!hasWebGL()) {
    byId("viewer-missing").hidden = false;
    byId("viewer-stage").hidden = true;
    byId("viewer-controls").hidden = true;
    return;
  }

  const viewer = $3Dmol.createViewer(byId("viewer-stage"), { backgroundAlpha: 0, antialias: true });
  const symbols = byId("viewer-labels");
  const style = {
    stick: { radius: 0.11, colorscheme: "Jmol" },
    sphere: { scale: 0.22, colorscheme: "Jmol" },
  };
  let shown = -1;  // nothing yet

  const label = () => {
    viewer.removeAllLabels();
    if (symbols.checked) {
      viewer.addPropertyLabels("elem", { not: { elem: ["C", "H"] } }, {
        fontSize: 13, fontColor: "white", backgroundColor: "black", backgroundOpacity: 0.75,
        alignment: "center", inFront: true,
      });
    }
    viewer.render();
  };

  const show = (index) => {
    const previous = structures[shown];
    shown = (index + structures.length) % structures.length;
    const current = structures[shown];
    viewer.removeAllModels();
    viewer.addModel(current.molblock, "sdf", { keepH: true });
    viewer.setStyle({}, style);
    // Conformers of one molecule are already aligned: keep the reader's viewpoint between them.
    if (!previous || previous.name !== current.name) viewer.zoomTo();
    label();
    byId("viewer-pick").value = String(shown);
    byId("viewer-position").textContent = `${shown + 1} of ${structures.length}`;
    byId("viewer-caption").textContent = current.caption;
    byId("viewer-stage").setAttribute("aria-label", `3D structure of ${current.name}. ${current.caption}`);
  };

  byId("viewer-previous").addEventListener("click", () => show(shown - 1));
  byId("viewer-next").addEventListener("click", () => show(shown + 1));
  byId("viewer-pick").addEventListener("change", (event) => show(Number(event.target.value)));
  byId("viewer-reset").addEventListener("click", () => { viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]); viewer.zoomTo(); viewer.render(); });
  byId("viewer-spin").addEventListener("change", (event) => viewer.spin(event.target.checked ? "y" : false));
  symbols.addEventListener("change", label);
  byId("viewer-stage").addEventListener("pointerdown", () => figure.focus({ preventScroll: true }), true);
  // A page that scrolls past must not stop at the viewer: it takes the wheel only while it has the focus.
  byId("viewer-stage").addEventListener("wheel", (event) => {
    if (!figure.contains(document.activeElement)) event.stopPropagation();
  }, { capture: true, passive: true });
  figure.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT") return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(shown + step);
  });

  document.querySelectorAll("a[data-view]").forEach((link) => {
    link.addEventListener("click", () => show(structures.findIndex((s) => s.id === link.dataset.view)));
  });
  window.addEventListener("resize", () => viewer.resize());
  show(0);
})();
