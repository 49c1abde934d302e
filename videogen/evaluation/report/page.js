"use strict";
// Clips lie once in the page, as base64; each place that shows one gets a blob of it when it comes into view, and plays while it is there.
const contents = JSON.parse(document.getElementById("clips").textContent);
const addresses = new Map();

function addressOf(name) {
  if (!addresses.has(name)) {
    const bytes = Uint8Array.from(atob(contents[name].data), (letter) => letter.charCodeAt(0));
    addresses.set(name, URL.createObjectURL(new Blob([bytes], { type: contents[name].kind })));
  }
  return addresses.get(name);
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !target.src) target.src = addressOf(target.dataset.clip);
    if (target.tagName !== "VIDEO") continue;
    if (isIntersecting) target.play().catch(() => {}); // a browser that does not play by itself shows its controls
    else target.pause();
  }
}, { rootMargin: "100px" });

for (const element of document.querySelectorAll("[data-clip]")) {
  watcher.observe(element);
  // Controls hide half of a small clip, so they come with the pointer or the keyboard only.
  for (const [event, shown] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) {
    element.addEventListener(event, () => { element.controls = shown; });
  }
}
