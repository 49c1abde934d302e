// Small pictures of what each camera move does to the image: a far hill, a near tree, a frame. CSS moves them.

const NAMESPACE = "http://www.w3.org/2000/svg";

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
  return element("svg", { viewBox: "0 0 40 32", class: `camera-icon move-${name.toLowerCase().replaceAll(" ", "-")}`, "aria-hidden": "true" },
    element("defs", {}, element("clipPath", { id: clip }, element("rect", { x: 1, y: 1, width: 38, height: 30, rx: 5 }))),
    element("g", { "clip-path": `url(#${clip})` }, element("rect", { x: 0, y: 0, width: 40, height: 32, class: "sky" }), element("g", { class: "view" }, far, near)));
}
