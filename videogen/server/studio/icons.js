// Small pictures of what each camera move does to the image: a far hill, a near tree, a frame. CSS moves them; a sign tells the move while they rest.

const NAMESPACE = "http://www.w3.org/2000/svg";

// Straight arrows where the camera travels, bent ones where it turns, a lens where it zooms.
const SIGNS = {
  "Truck left": "M31 27H9m4-4-4 4 4 4",
  "Truck right": "M9 27h22m-4-4 4 4-4 4",
  "Pan left": "M31 28Q20 19 9 27m1-5-1 5 5 1",
  "Pan right": "M9 28q11-9 22-1m-1-5 1 5-5 1",
  "Push in": "M5 29l10-7m-5 0h5v5M35 29l-10-7m5 0h-5v5",
  "Pull out": "M15 22L5 29m0-5v5h5M25 22l10 7m0-5v5h-5",
  "Pedestal up": "M34 27V6m-4 4 4-4 4 4",
  "Pedestal down": "M34 6v21m-4-4 4 4 4-4",
  "Tilt up": "M35 28Q26 17 34 6m-5 1 5-1 1 5",
  "Tilt down": "M35 5q-9 11-1 22m-5-1 5 1 1-5",
  "Zoom in": "M35.5 23a5 5 0 1 1-10 0 5 5 0 0 1 10 0m-1.5 3.5 4 4M28 23h5m-2.5-2.5v5",
  "Zoom out": "M35.5 23a5 5 0 1 1-10 0 5 5 0 0 1 10 0m-1.5 3.5 4 4M28 23h5",
  Shake: "M6 28l4-5 5 5 5-5 5 5 5-5 4 5",
  "Tracking shot": "M11 16v-4h4M25 12h4v4M29 26v4h-4M15 30h-4v-4",
  "Static shot": "M29 20v9M34 20v9",
};

function element(name, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

let count = 0;

export function cameraIcon(name) {
  const clip = `clip-${count++}`;
  const far = element("g", { class: "far" },
    element("circle", { cx: 31, cy: 9, r: 3.2, class: "sun" }),
    element("path", { d: "M-20 25 L-6 14 L4 22 L14 11 L26 22 L36 14 L48 23 L62 16 L62 44 L-20 44 Z", class: "hill" }));
  const near = element("g", { class: "near" },
    element("path", { d: "M20 15 l5.2 9 h-3.2 v4.5 h-4 v-4.5 h-3.2 z", class: "tree" }));
  const sign = SIGNS[name] ? [element("path", { d: SIGNS[name], class: "halo" }), element("path", { d: SIGNS[name], class: "sign" })] : [];
  return element("svg", { viewBox: "0 0 40 32", class: `camera-icon move-${name.toLowerCase().replaceAll(" ", "-")}`, "aria-hidden": "true" },
    element("defs", {}, element("clipPath", { id: clip }, element("rect", { x: 1, y: 1, width: 38, height: 30, rx: 5 }))),
    element("g", { "clip-path": `url(#${clip})` }, element("rect", { x: 0, y: 0, width: 40, height: 32, class: "sky" }), element("g", { class: "view" }, far, near)),
    ...sign);
}
