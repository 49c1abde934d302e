// The studio: compose, watch, look. State lives on the server; this page shows it.

import { ApiError, get, listen, media, needsKey, post, remove, setKey, upload } from "/studio/api.js";
import { language, setLanguage, t, translatePage } from "/studio/i18n.js";
import { cameraIcon } from "/studio/icons.js";
import { say } from "/studio/sentences.js";

const $ = (id) => document.getElementById(id);
const KINDS = ["actors", "motions", "scenes", "lights"];
const PAGE = 24;
const SUBJECT = { en: "the subject", zh: "主角" }; // how a prompt names who is on the picture

let model = null;
let segments = [[]]; // camera: moves in sequence, each a list of moves together
let pictures = { first_frame: null, last_frame: null, subject: null }; // {id, url}
let source = null; // job to continue, or {id, prompt} of a file that no shown job made
let carried = {}; // of a job whose settings are used: what this page does not show, sent along
let jobs = new Map(); // id -> job, all that are shown
let previews = new Map(); // id -> data URL
let picked = new Set();
let unknown = {};
let oldest = null;
let hasMore = false;

// Small tools

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("data-") || name.startsWith("aria-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function toast(text) {
  const element = make("div", { className: "toast", textContent: text });
  $("toasts").append(element);
  setTimeout(() => element.remove(), 5000);
}

function later(milliseconds, action) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
}

const random = (list) => list[Math.floor(Math.random() * list.length)];
const newSeed = () => Math.floor(Math.random() * 2 ** 31);
const said = (entry) => entry[language] || entry.en;

function duration(seconds) {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} ${t("seconds")}`;
  return `${Math.round(seconds / 60)} ${t("minutes")}`;
}

// Composer

function words(kind) {
  const known = Object.entries(model?.suggestions?.[kind] || {}).filter(([, entry]) => said(entry));
  return kind === "actors" && pictures.subject && known.length ? [[SUBJECT.en, SUBJECT], ...known] : known;
}

function showSuggestions() {
  const text = $("prompt").value.toLowerCase();
  const rows = KINDS.filter((kind) => words(kind).length).map((kind) =>
    make("div", {}, make("h3", { textContent: t(kind) }),
      make("div", { className: "chips" }, ...words(kind).map(([name, entry]) =>
        make("button", {
          type: "button", className: "chip", textContent: kind === "actors" && language === "en" ? name : said(entry),
          "aria-pressed": String(text.includes((kind === "actors" && language === "en" ? name : said(entry)).toLowerCase())),
          onclick: () => insertWord(kind, entry),
        })))));
  $("suggest").replaceChildren(...rows);
}

// Put a word where its kind stands already, or else in the order who, does what, where, when.
function insertWord(kind, entry) {
  const area = $("prompt");
  let text = area.value;
  const others = words(kind).map(([name, other]) => (kind === "actors" && language === "en" ? [said(other), name] : [said(other)])).flat();
  const present = others.filter((phrase) => text.toLowerCase().includes(phrase.toLowerCase())).sort((a, b) => b.length - a.length)[0];
  if (present && entry === SUBJECT && language === "zh") {
    text = text.replace(new RegExp(`(一[个只辆条头匹艘])?${present}`), said(entry));
  } else if (present) {
    const start = text.toLowerCase().indexOf(present.toLowerCase());
    text = text.slice(0, start) + said(entry) + text.slice(start + present.length);
  } else if (language === "zh") {
    text = kind === "lights" ? `${said(entry)},${text}` : kind === "scenes" ? `${text}在${said(entry)}` : kind !== "actors" ? text + said(entry) : entry === SUBJECT ? said(entry) + text : `一个${said(entry)}${text}`;
  } else {
    text = kind === "actors" ? `${said(entry)} ${text}` : `${text} ${said(entry)}`;
  }
  area.value = text.replace(/\s+/g, " ").trim();
  area.focus();
  promptChanged();
}

function surprise() {
  const pick = (kind) => (words(kind).length ? said(random(words(kind))[1]) : "");
  const [actor, motion, scene, light] = KINDS.map(pick);
  $("prompt").value = language === "zh" ? `${light},一个${actor}在${scene}${motion}` : `${actor} ${motion} ${scene} ${light}`.trim();
  const known = model?.vocabulary?.cameras || [];
  segments = [Math.random() < 0.7 && known.length ? [random(known)] : []];
  $("seed").value = "";
  showCameras();
  promptChanged();
}

function mirror() {
  const text = $("prompt").value;
  const parts = [];
  const marks = Object.keys(unknown).sort((a, b) => b.length - a.length).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const pattern = new RegExp(`(\\[[^\\]]*\\]|【[^】]*】)${marks.length ? `|(${marks.join("|")})` : ""}`, "gi");
  let at = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(at, match.index));
    parts.push(match[1] ? make("span", { className: "bracket", textContent: match[0] }) : make("mark", { textContent: match[0] }));
    at = match.index + match[0].length;
  }
  parts.push(text.slice(at) + "\n");
  $("mirror").replaceChildren(...parts);
  const area = $("prompt");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function showUnknown() {
  const lines = Object.entries(unknown).map(([word, nearest]) => {
    const hints = nearest.flatMap((hint, index) => [index ? ", " : "", make("button", {
      type: "button", className: "link", textContent: hint,
      onclick: () => {
        $("prompt").value = $("prompt").value.replace(new RegExp(word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "i"), hint);
        promptChanged();
      },
    })]);
    return make("p", {}, `${t("unknown")} “${word}”`, ...(hints.length ? [` · ${t("nearest")} `, ...hints] : []));
  });
  $("words").replaceChildren(...lines);
}

const lookAtWords = later(250, async () => {
  const text = $("prompt").value;
  if (!text.trim()) {
    unknown = {};
  } else {
    try {
      unknown = (await post("/v1/prompts", { prompt: text })).unknown;
      problem(null, "words");
    } catch (error) {
      unknown = {};
      if (error instanceof ApiError && error.status === 422) problem(error, "words");
    }
  }
  if ($("prompt").value === text) {
    showUnknown();
    mirror();
  }
});

function promptChanged() {
  mirror();
  showSuggestions();
  lookAtWords();
  estimate();
}

async function rewrite() {
  const prompt = $("prompt").value.trim();
  if (!prompt) return;
  try {
    const { rewritten, changes } = await post("/v1/prompts", { prompt, has_subject: Boolean(pictures.subject) });
    if (rewritten === prompt) return toast(t("unchanged"));
    $("words").replaceChildren(make("div", { className: "rewritten" },
      make("span", {}, `${t("rewritten")}: `, make("b", { textContent: rewritten })),
      ...changes.slice(1).map((change) => make("small", { textContent: change })),
      make("button", { type: "button", className: "small", textContent: t("use"), onclick: () => { $("prompt").value = rewritten; promptChanged(); } })));
  } catch (error) {
    problem(error);
  }
}

// Camera

function cameraText() {
  return segments.filter((moves) => moves.length).map((moves) => `[${moves.join(",")}]`).join(" ");
}

const OPPOSITE = (name) => {
  const swaps = [["left", "right"], ["up", "down"], ["Push in", "Pull out"], ["in", "out"]];
  if (name === "Push in") return "Pull out";
  if (name === "Pull out") return "Push in";
  for (const [a, b] of swaps) {
    if (name.endsWith(` ${a}`)) return name.replace(new RegExp(`${a}$`), b);
    if (name.endsWith(` ${b}`)) return name.replace(new RegExp(`${b}$`), a);
  }
  return null;
};

function toggleCamera(name) {
  const moves = segments.at(-1);
  const at = moves.indexOf(name);
  if (at >= 0) moves.splice(at, 1);
  else {
    const alone = name === "Static shot" || moves.includes("Static shot");
    segments[segments.length - 1] = alone ? [name] : [...moves.filter((move) => move !== OPPOSITE(name)), name];
  }
  showCameras();
  estimate();
}

function showCameras() {
  if (cameraText()) { delete carried.camera; showCarried(); } // commands instead of vectors
  const known = new Set(model?.vocabulary?.cameras || []);
  $("cameras").replaceChildren(...(model?.cameras || []).map(({ name, zh }) => {
    const label = language === "zh" ? zh : name;
    const untrained = known.size && !known.has(name);
    const button = make("button", {
      type: "button", className: `camera${untrained ? " untrained" : ""}`, title: `[${label}]${untrained ? ` (${t("untrained")})` : ""}`,
      "aria-pressed": String(segments.at(-1).includes(name)), onclick: () => { toggleCamera(name); focusCamera(name); }, "data-camera": name,
    });
    button.append(cameraIcon(name), make("span", { textContent: label }));
    return button;
  }));
  const shown = segments.filter((moves) => moves.length);
  const parts = shown.flatMap((moves, index) => [
    index ? make("span", { textContent: t("then") }) : null,
    make("code", { textContent: moves.map((move) => (language === "zh" ? model.cameras.find(({ name }) => name === move).zh : move)).join(" + ") }),
  ]).filter(Boolean);
  if (shown.length) {
    parts.push(make("button", { type: "button", className: "small", textContent: `+ ${t("then")}`, title: t("thenHint"), disabled: !segments.at(-1).length, onclick: () => { segments.push([]); showCameras(); } }));
    parts.push(make("button", { type: "button", className: "small", textContent: t("clear"), onclick: () => { segments = [[]]; showCameras(); estimate(); } }));
  }
  $("sequence").replaceChildren(...parts);
}

function focusCamera(name) {
  document.querySelector(`[data-camera="${name}"]`)?.focus();
}

// Pictures

async function takePicture(role, file) {
  if (!file) return;
  if (file.size > model.max_upload_bytes) return problem(new Error(`${file.name}: > ${Math.round(model.max_upload_bytes / 2 ** 20)} MiB`), "picture");
  toast(t("uploading"));
  try {
    const { id, kind } = await upload(file);
    if (kind !== "image") throw new Error(`${file.name}: ${kind}`);
    if (role === "subject") pictures.first_frame = pictures.last_frame = null;
    else pictures.subject = null;
    delete carried[role === "subject" ? "keyframes" : "subjects"];
    source = null;
    pictures[role] = { id, url: URL.createObjectURL(file) };
    problem(null, "picture");
  } catch (error) {
    problem(error, "picture");
  }
  showPictures();
  estimate();
}

function showPictures() {
  for (const zone of document.querySelectorAll(".drop")) {
    const picture = pictures[zone.dataset.role];
    zone.classList.toggle("filled", Boolean(picture));
    zone.querySelectorAll("img, .off").forEach((element) => element.remove());
    zone.querySelector("input").value = "";
    if (!picture) continue;
    zone.append(make("img", { src: picture.url, alt: "" }), make("button", {
      type: "button", className: "off", textContent: "×", title: t("remove"), "aria-label": t("remove"),
      onclick: (event) => { event.preventDefault(); pictures[zone.dataset.role] = null; showPictures(); estimate(); },
    }));
  }
  showSuggestions();
  showCarried();
  const bar = $("continuing");
  bar.hidden = !source;
  if (source) {
    const image = make("img", { alt: "" });
    if (source.status) media(`/v1/jobs/${source.id}/content?variant=thumbnail`).then((url) => { image.src = url; });
    bar.replaceChildren(source.status ? image : "", make("span", { textContent: `${t("continuing")}: ${source.prompt.slice(0, 60)}` }),
      make("button", { type: "button", className: "small", textContent: t("remove"), onclick: () => { source = null; showPictures(); showLengths(); estimate(); } }));
  }
}

function showCarried() {
  const names = Object.keys(carried);
  $("carried").hidden = !names.length;
  $("carried").replaceChildren(make("span", { textContent: `${t("carried")}: ${names.map((name) => t(`carried_${name}`)).join(", ")}` }),
    make("button", { type: "button", className: "small", textContent: t("remove"), onclick: () => { carried = {}; showCarried(); estimate(); } }));
}

function showLengths() {
  if (!model) return;
  const { num_frames: lengths = [17], fps: rates = [12] } = model.vocabulary || {};
  const trained = Math.max(...lengths);
  const chosen = $("length").value;
  // Lengths that the model makes as they are: one frame, or what is continued, and then whole latent frames.
  const step = model.scale_factor_temporal;
  const fit = (frames) => (source ? step * Math.max(1, Math.round(frames / step)) : 1 + step * Math.round((frames - 1) / step));
  const choices = [trained, 2 * trained, 4 * trained, 6 * rates[0]].map(fit).filter((frames) => frames <= model.max_duration * rates[0]);
  $("length").replaceChildren(...[...new Set(choices)].sort((a, b) => a - b).map((frames) =>
    make("option", { value: frames, textContent: `${source ? "+" : ""}${(frames / rates[0]).toFixed(1)} ${t("seconds")}` })));
  if ([...$("length").options].some((option) => option.value === chosen)) $("length").value = chosen;
  const sizes = model.vocabulary?.sizes || [];
  $("size").replaceChildren(...sizes.map(([width, height]) => make("option", { value: `${width}x${height}`, textContent: `${width} × ${height}` })));
}

// Requests

function request() {
  const body = { prompt: $("prompt").value.trim() };
  const camera = cameraText();
  if (camera) body.camera = camera;
  if ($("negative").value.trim()) body.negative_prompt = $("negative").value.trim();
  if ($("length").value) body.num_frames = Number($("length").value);
  if ($("seed").value) body.seed = Number($("seed").value);
  if ($("steps").value) body.steps = Number($("steps").value);
  if ($("guidance").value) body.guidance_scale = Number($("guidance").value);
  if ($("quality").value) body.quality = $("quality").value;
  if ($("watermark").checked) body.watermark = true;
  if (source) body.source = source.id;
  else if ($("size").value) [body.width, body.height] = $("size").value.split("x").map(Number);
  if (pictures.first_frame) body.first_frame = pictures.first_frame.id;
  if (pictures.last_frame) body.last_frame = pictures.last_frame.id;
  if (pictures.subject) body.subjects = [pictures.subject.id, ...(carried.subjects ?? [])];
  return { ...carried, ...body };
}

const problems = new Map(); // who found it -> what; nobody clears another's

function problem(error, who = "request") {
  if (error) problems.set(who, say(error.message));
  else problems.delete(who);
  $("problem").hidden = problems.size === 0;
  $("problem").textContent = [...new Set(problems.values())].join(" ");
}

const estimate = later(350, async () => {
  const place = $("estimate");
  $("generate").disabled = !$("prompt").value.trim();
  if (!$("prompt").value.trim()) {
    place.textContent = "";
    $("adjusted").replaceChildren();
    problem(null, "estimate");
    problem(null, "words");
    return;
  }
  try {
    const found = await post("/v1/estimates", request());
    const parts = [];
    if (found.seconds === null) parts.push(t("notMeasured"));
    else parts.push(`${t("about")} ${duration(found.seconds)}`);
    parts.push(`${found.steps} ${t("countSteps")}`);
    if (found.memory_bytes) parts.push(`${(found.memory_bytes / 2 ** 30).toFixed(1)} GB ${t("memory")}`);
    if (found.queue_length) parts.push(`${found.queue_length} ${t("ahead")}${found.wait_seconds ? ` (${t("wait")} ${duration(found.wait_seconds)})` : ""}`);
    place.textContent = parts.join(" · ");
    $("adjusted").replaceChildren(...found.adjusted.map((text) => make("li", { textContent: say(text) })));
    problem(null, "estimate");
  } catch (error) {
    place.textContent = "";
    $("adjusted").replaceChildren();
    if (error instanceof ApiError && error.status === 422) problem(error, "estimate");
  }
});

async function generate(event) {
  event?.preventDefault();
  const versions = Number($("versions").value);
  const first = $("seed").value ? Number($("seed").value) : newSeed();
  $("generate").disabled = true;
  try {
    for (let index = 0; index < versions; index++) {
      const body = { ...request(), seed: $("seed").value || versions > 1 ? first + index : newSeed() };
      changed(await post("/v1/jobs", body, { "idempotency-key": crypto.randomUUID?.() || `${Date.now()}-${Math.random()}` }));
    }
    problems.clear();
    problem(null);
    if (innerWidth < 900) $("queue-section").scrollIntoView({ behavior: "smooth" });
  } catch (error) {
    problem(error);
  } finally {
    $("generate").disabled = false;
  }
}

// What a job was, as a new request; everything the page does not show goes along.
function again(job, changes = {}) {
  const { request: r } = job;
  const body = {
    prompt: r.prompt, negative_prompt: r.negative_prompt, num_frames: r.num_frames, fps: r.fps, steps: r.steps,
    guidance_scale: r.guidance_scale, guidance_method: r.guidance_method, guidance_rescale: r.guidance_scale !== 1 ? r.guidance_rescale : 0, quality: r.quality ?? "high",
    watermark: r.watermark, receipt_images: r.receipt_images, ...changes,
  };
  if (r.guidance_scale !== 1) body.guidance_interval = r.guidance_interval ?? [0, 1]; // an older job was guided throughout
  if (r.camera_vectors) body.camera = r.camera_vectors;
  else if (r.camera) body.camera = r.camera;
  const keyframes = [];
  for (const { role, file_id: id, time } of r.pictures) {
    if (role === "first") body.first_frame = id;
    else if (role === "last") body.last_frame = id;
    else if (role === "source") body.source = id;
    else if (role === "subject") (body.subjects ??= []).push(id);
    else keyframes.push({ time, image: id });
  }
  if (keyframes.length) body.keyframes = keyframes;
  if (!body.source) [body.width, body.height] = [r.width, r.height];
  return body;
}

// Queue and gallery

function changed(job) {
  if (job.preview) previews.set(job.id, job.preview);
  delete job.preview;
  const before = jobs.get(job.id);
  jobs.set(job.id, job);
  if (before?.status !== job.status) {
    if (job.status === "completed") previews.delete(job.id);
    show();
  } else showJob(job);
}

const active = (job) => job.status === "queued" || job.status === "running";
const recentFailure = (job) => (job.status === "failed" || job.status === "cancelled") && Date.now() / 1000 - (job.finished_at || 0) < 120;

function matches(job) {
  const text = $("search").value.trim().toLowerCase();
  return !text || job.prompt.toLowerCase().includes(text);
}

// Children in this order; what stays is not touched, so that clips play on, and the focus is kept.
function arrange(parent, children) {
  if (children.length === parent.children.length && children.every((child, index) => child === parent.children[index])) return;
  const focused = document.activeElement;
  parent.replaceChildren(...children);
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

function show() {
  const all = [...jobs.values()].sort((a, b) => b.created_at - a.created_at);
  const queue = all.filter((job) => active(job) || recentFailure(job)).sort((a, b) => (a.status === "running" ? 0 : 1) - (b.status === "running" ? 0 : 1) || a.created_at - b.created_at);
  $("queue-section").hidden = !queue.length;
  $("queue-count").textContent = queue.length > 1 ? queue.length : "";
  const rows = new Map([...$("queue").children].map((row) => [row.dataset.id, row]));
  arrange($("queue"), queue.map((job) => rows.get(job.id) || make("li", { className: "job", "data-id": job.id })));
  queue.forEach(showJob);
  const done = all.filter((job) => job.status === "completed" && matches(job));
  const cards = new Map([...$("gallery").children].map((card) => [card.dataset.id, card]));
  arrange($("gallery"), done.map((job) => cards.get(job.id) || card(job)));
  $("gallery").classList.toggle("picking", picked.size > 0);
  $("empty").hidden = done.length > 0;
  $("empty").textContent = t($("search").value.trim() ? "noMatch" : "empty");
  $("load-more").hidden = !hasMore;
  $("compare").disabled = picked.size < 2;
}

function stageText(job) {
  if (job.status === "failed") return `${t("failed")}: ${say(job.error?.message || "")}`;
  if (job.status === "cancelled") return t("cancelled");
  if (job.status === "queued") return job.note ? `${t("waiting")} (${job.note})` : t("waiting");
  if (job.stage === "decoding") return t("decoding");
  if (!job.step) return t("starting");
  const left = job.seconds_left ? ` · ${duration(job.seconds_left)} ${t("left")}` : "";
  return `${t("step")} ${job.step} ${t("of")} ${job.num_steps}${left}${job.resumed_from ? ` · ${t("resumed")} ${job.resumed_from}` : ""}`;
}

function showJob(job) {
  const row = $("queue").querySelector(`[data-id="${job.id}"]`);
  if (!row) return;
  if (!row.firstChild) {
    row.append(make("div", { className: "look" }),
      make("div", {}, make("p", { textContent: job.prompt }), make("progress", { max: 100 }), make("small")),
      make("button", { className: "small", type: "button", textContent: t("cancel"), onclick: () => cancel(job.id) }));
  }
  row.classList.toggle("failed", job.status === "failed");
  row.querySelector("progress").value = job.progress;
  row.querySelector("progress").setAttribute("aria-label", job.prompt);
  row.querySelector("progress").hidden = !active(job);
  row.querySelector("small").textContent = stageText(job);
  row.querySelector("button").hidden = !active(job);
  const preview = previews.get(job.id);
  const look = row.querySelector(".look");
  if (preview) {
    const image = look.firstChild || look.appendChild(make("img", { alt: "" }));
    image.src = preview;
  }
}

async function cancel(id) {
  try {
    changed(await post(`/v1/jobs/${id}/cancel`, {}));
  } catch (error) {
    toast(say(error.message));
  }
}

function clip(job, properties = {}) {
  const video = make("video", { muted: true, loop: true, playsInline: true, preload: "none", ...properties });
  media(`/v1/jobs/${job.id}/content?variant=thumbnail`).then((url) => {
    video.poster = url;
    video.style.backgroundImage = `url("${url}")`; // while the first frame is decoded, and where a loop begins again
  }).catch(() => {});
  const ready = () => video.src || media(`/v1/jobs/${job.id}/content`).then((url) => { video.src = url; });
  return { video, play: async () => { await ready(); video.play().catch(() => {}); } };
}

function card(job) {
  const { video, play } = clip(job);
  const rest = () => { video.pause(); };
  const open = make("button", { className: "open", type: "button", "aria-label": job.prompt, onclick: () => detail(job.id), onfocus: play, onblur: rest },
    video, make("p", { textContent: job.prompt, title: job.prompt }),
    make("small", { textContent: `${job.result.seconds.toFixed(1)} ${t("seconds")} · ${t("seed").toLowerCase()} ${job.result.seed}` }));
  const pick = make("input", {
    type: "checkbox", className: "pick", checked: picked.has(job.id), title: t("select"), "aria-label": t("select"),
    onchange: () => { pick.checked ? picked.add(job.id) : picked.delete(job.id); show(); },
  });
  return make("li", { className: "card", "data-id": job.id, onmouseenter: play, onmouseleave: rest }, open, pick);
}

async function save(job, variant, suffix) {
  try {
    const path = `/v1/jobs/${job.id}/content?variant=${variant}`;
    const link = make("a", { href: await media(path), download: job.id + suffix });
    document.body.append(link);
    link.click();
    link.remove();
  } catch (error) {
    toast(say(error.message));
  }
}

function closer(dialog) {
  return make("button", { className: "shut", type: "button", textContent: "×", "aria-label": t("close"), onclick: () => dialog.close() });
}

function detail(id) {
  const job = jobs.get(id);
  const dialog = $("detail");
  const { video, play } = clip(job, { controls: true });
  const facts = [
    [t("seed"), job.result.seed], [t("size"), `${job.result.width} × ${job.result.height}`],
    [t("length"), `${job.result.seconds.toFixed(2)} ${t("seconds")}, ${job.result.num_frames} ${t("frames")}`],
    [t("quality"), t(job.request.quality ?? "high")], [t("steps"), job.request.steps], [t("guidance"), job.request.guidance_scale],
    [t("made"), duration(job.finished_at - job.started_at)],
  ];
  if (job.request.camera) facts.push([t("camera"), job.request.camera]);
  for (const score of job.result.identity) facts.push([t("identity"), `${score.mean.toFixed(2)} (≥ ${score.worst.toFixed(2)})`]);
  const act = (action) => async () => {
    dialog.close();
    try {
      await action();
    } catch (error) {
      problem(error);
    }
  };
  const gone = act(async () => { await remove(`/v1/jobs/${job.id}`); jobs.delete(job.id); picked.delete(job.id); show(); toast(t("deleted")); });
  const erase = make("button", { className: "small danger", textContent: t("delete"), onclick: () => {
    if (erase.textContent === t("sure")) gone();
    else erase.textContent = t("sure");
  } });
  const notes = [...job.adjusted.map((text) => `${t("adjusted")}: ${say(text)}`), ...job.warnings.map(say)];
  dialog.replaceChildren(closer(dialog), make("div", { className: "detail" },
    make("div", {}, video),
    make("div", {},
      make("h2", { id: "detail-title", textContent: job.prompt }),
      make("dl", { className: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })])),
      notes.length ? make("ul", { className: "notes" }, ...notes.map((text) => make("li", { textContent: text }))) : null,
      make("div", { className: "actions" },
        make("button", { className: "primary", textContent: t("again"), onclick: act(async () => { changed(await post("/v1/jobs", again(job, { seed: newSeed() }))); toast(t("submitted")); }) }),
        make("button", { className: "small", textContent: t("continue"), onclick: act(() => { source = job; carried = {}; pictures = { first_frame: null, last_frame: null, subject: null }; $("prompt").value = job.request.prompt; showPictures(); showLengths(); promptChanged(); $("prompt").focus(); }) }),
        make("button", { className: "small", textContent: t("reuse"), onclick: act(() => reuse(job)) })),
      make("div", { className: "actions" },
        ...[["video", ".mp4", "clip"], ["gif", ".gif", "gif"], ["sheet", ".png", "sheet"], ["receipt", ".json", "receipt"]].map(([variant, suffix, name]) =>
          make("button", { className: "small", textContent: `↓ ${t(name)}`, "data-variant": variant, onclick: () => save(job, variant, suffix) })),
        erase))));
  dialog.onkeydown = (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way || event.target === video) return;
    const cards = [...document.querySelectorAll(".card")];
    const next = cards[cards.findIndex((card) => card.dataset.id === id) + way];
    if (next) detail(next.dataset.id);
  };
  if (!dialog.open) dialog.showModal();
  dialog.focus(); // what had the focus may be gone with the clip before
  play();
}

function reuse(job) {
  const r = job.request;
  $("prompt").value = r.prompt;
  $("negative").value = r.negative_prompt;
  $("seed").value = r.seed;
  $("steps").value = r.steps;
  $("guidance").value = r.guidance_scale;
  $("quality").value = model.qualities.length > 1 ? r.quality ?? "high" : "";
  $("watermark").checked ||= r.watermark;
  const commands = r.camera && !/[[【]/.test(r.camera) ? `[${r.camera}]` : r.camera;
  segments = commands ? [...commands.matchAll(/\[([^\]]*)\]/g)].map((match) => match[1].split(",").map((move) => move.trim())) : [[]];
  if (!segments.length) segments = [[]];
  const told = (role) => r.pictures.filter((picture) => picture.role === role);
  const [origin] = told("source");
  source = origin ? [...jobs.values()].find((other) => other.file_id === origin.file_id) || { id: origin.file_id, prompt: origin.is_clip ? origin.file_id : t("uploaded") } : null;
  carried = {};
  const [, ...subjects] = told("subject").map((picture) => picture.file_id);
  if (subjects.length) carried.subjects = subjects;
  const keyframes = told("keyframe").map(({ time, file_id: image }) => ({ time, image }));
  if (keyframes.length) carried.keyframes = keyframes;
  if (r.camera_vectors) carried.camera = r.camera_vectors;
  const interval = r.guidance_interval ?? [0, 1];
  if (r.guidance_scale !== 1 && String(interval) !== String(model.vocabulary?.guidance_interval ?? [0, 1])) carried.guidance_interval = interval;
  for (const [name, usual] of [["guidance_method", "standard"], ["guidance_rescale", r.guidance_scale === 1 ? r.guidance_rescale : 0], ["fps", model.vocabulary?.fps?.[0]], ["receipt_images", true]]) {
    if (r[name] !== usual) carried[name] = r[name];
  }
  for (const [role, zone] of [["first", "first_frame"], ["last", "last_frame"], ["subject", "subject"]]) {
    pictures[zone] = null;
    const id = told(role)[0]?.file_id;
    if (!id) continue;
    media(`/v1/uploads/${id}/content`).then((url) => { pictures[zone] = { id, url }; showPictures(); estimate(); }, (error) => problem(error, "picture"));
  }
  showPictures();
  showLengths();
  if (![...$("length").options].some((option) => option.value === String(r.num_frames))) {
    $("length").append(make("option", { value: r.num_frames, textContent: `${source ? "+" : ""}${(r.num_frames / r.fps).toFixed(1)} ${t("seconds")}` }));
  }
  for (const [id, value] of [["length", r.num_frames], ["size", `${r.width}x${r.height}`]]) {
    if ([...$(id).options].some((option) => option.value === String(value))) $(id).value = value;
  }
  showCameras();
  promptChanged();
  $("prompt").focus();
}

function compare() {
  const dialog = $("comparison");
  const clips = [...picked].map((id) => jobs.get(id)).filter(Boolean).map((job) => ({ job, ...clip(job, { preload: "auto", loop: false }) }));
  const videos = clips.map(({ video }) => video);
  // All begin at one moment, and again when the longest has ended.
  const begin = () => { for (const video of videos) { video.currentTime = 0; video.play().catch(() => {}); } };
  for (const video of videos) video.onended = () => { if (videos.every((one) => one.ended)) begin(); };
  const pause = make("button", { className: "small", type: "button", textContent: t("pause"), onclick: () => {
    const playing = videos.some((video) => !video.paused);
    for (const video of videos) playing ? video.pause() : !video.ended && video.play().catch(() => {});
    pause.textContent = t(playing ? "play" : "pause");
  } });
  dialog.replaceChildren(closer(dialog), make("div", { className: "beside" }, make("h2", { textContent: t("compare") }), pause),
    make("div", { className: "side" }, ...clips.map(({ job, video }) => make("figure", {}, video, make("figcaption", {}, job.prompt, make("br"), make("small", {
      textContent: [`${t("seed").toLowerCase()} ${job.result.seed}`, `${job.request.steps} ${t("countSteps")}`, `${t("guidance").toLowerCase()} ${job.request.guidance_scale}`,
        `${job.result.seconds.toFixed(1)} ${t("seconds")}`, job.request.camera].filter(Boolean).join(" · "),
    }))))));
  dialog.onkeydown = (event) => { if (event.key === " " && event.target !== pause) { pause.click(); event.preventDefault(); } };
  dialog.showModal();
  pause.focus();
  Promise.all(clips.map(({ play }) => play())).then(begin);
}

async function loadPage() {
  const query = new URLSearchParams({ limit: PAGE, status: "completed" });
  if (oldest) query.set("after", oldest);
  if ($("search").value.trim()) query.set("q", $("search").value.trim());
  const page = await get(`/v1/jobs?${query}`);
  for (const job of page.data) jobs.set(job.id, job);
  oldest = page.data.at(-1)?.id || oldest;
  hasMore = page.has_more;
  show();
}

const loadMore = () => loadPage().then(() => problem(null, "list"), (error) => problem(error, "list"));

async function loadActive() {
  take((await get("/v1/jobs?status=queued&status=running&limit=100")).data);
}

// Answers may be older than what an event told meanwhile: what has ended stays so.
function take(found) {
  for (const job of found) {
    const before = jobs.get(job.id);
    if (!before || active(before) || !active(job)) jobs.set(job.id, job);
    if (!active(job)) previews.delete(job.id);
  }
  show();
}

// What happened while nobody told: the jobs at work, the newest clips, and whatever is still shown as at work.
async function catchUp() {
  const page = await get(`/v1/jobs?status=completed&limit=${PAGE}`);
  if (page.data.length && !page.data.some((job) => jobs.has(job.id))) { // a gap, which the next page begins to fill
    oldest = page.data.at(-1).id;
    hasMore = page.has_more;
  }
  take(page.data);
  await loadActive();
  await Promise.all([...jobs.values()].filter(active).map(async ({ id }) => {
    try {
      take([await get(`/v1/jobs/${id}`)]);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) { jobs.delete(id); show(); } // deleted
    }
  }));
}

// State of the server

async function showState() {
  let state = "offline";
  try {
    const reply = await fetch("/ready");
    state = reply.ok ? "ready" : "loading";
  } catch {
    // offline
  }
  $("state").dataset.state = state;
  $("state-text").textContent = state === "ready" ? `${model?.name || ""} ${t("ready")}` : t(state);
}

function showKeys() {
  const keys = [["Ctrl ↵", "keyGenerate"], ["n", "keyPrompt"], ["/", "keySearch"], ["← → ↑ ↓", "keyMove"], ["↵", "keyOpen"], ["x", "keySelect"], ["c", "keyCompare"], ["␣", "keyPause"], ["?", "keyHelp"], ["Esc", "keyEsc"]];
  $("keys").replaceChildren(...keys.flatMap(([key, name]) => [make("dt", {}, make("kbd", { textContent: key })), make("dd", { textContent: t(name) })]));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("videogen-theme", theme);
}

function wire() {
  $("composer").addEventListener("submit", generate);
  $("prompt").addEventListener("input", promptChanged);
  $("rewrite").addEventListener("click", rewrite);
  $("surprise").addEventListener("click", surprise);
  $("dice").addEventListener("click", () => { $("seed").value = newSeed(); });
  for (const id of ["length", "size", "quality", "steps", "guidance", "negative", "seed"]) $(id).addEventListener("input", estimate);
  $("seed").addEventListener("input", () => { $("seed").value = $("seed").value.replace(/\D/g, "").slice(0, 15); });
  $("search").addEventListener("input", later(300, () => { oldest = null; show(); loadMore(); }));
  $("load-more").addEventListener("click", loadMore);
  $("compare").addEventListener("click", compare);
  $("language").addEventListener("click", () => { setLanguage(language === "zh" ? "en" : "zh"); draw(); });
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("key-button").addEventListener("click", () => $("key-dialog").showModal());
  $("key-dialog").addEventListener("close", () => { if ($("key").value) { setKey($("key").value); start(); } });
  needsKey.addEventListener("needed", () => { $("key-button").hidden = false; if (!$("key-dialog").open) $("key-dialog").showModal(); });
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  for (const dialog of [$("detail"), $("comparison")]) dialog.addEventListener("close", () => dialog.replaceChildren());
  for (const zone of document.querySelectorAll(".drop")) {
    zone.querySelector("input").addEventListener("change", (event) => takePicture(zone.dataset.role, event.target.files[0]));
    zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => { event.preventDefault(); zone.classList.remove("over"); takePicture(zone.dataset.role, event.dataTransfer.files[0]); });
  }
  // A picture that misses its place becomes the first frame; without this the browser would leave the page for it.
  document.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (event.defaultPrevented || !event.dataTransfer.files.length) return;
    event.preventDefault();
    takePicture("first_frame", event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file) takePicture("first_frame", file);
  });
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { if ($("prompt").value.trim()) generate(event); return; }
    if (event.target.matches("input:not([type=checkbox]), textarea, select") || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const cards = [...document.querySelectorAll(".card .open")];
    const at = cards.indexOf(document.activeElement);
    const columns = Math.max(1, getComputedStyle($("gallery")).gridTemplateColumns.split(" ").length);
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key === "/") $("search").focus();
    else if (event.key === "n") $("prompt").focus();
    else if (event.key === "?") $("help").showModal();
    else if (event.key in moves && (at >= 0 || document.activeElement === document.body)) cards[Math.min(cards.length - 1, Math.max(0, at < 0 ? 0 : at + moves[event.key]))]?.focus();
    else if (event.key === "c" && picked.size > 1) compare();
    else if (event.key === "x" && at >= 0) cards[at].parentElement.querySelector(".pick").click();
    else return;
    event.preventDefault();
  });
}

function draw() {
  translatePage();
  showKeys();
  showCameras();
  showLengths();
  showPictures();
  $("gallery").replaceChildren();
  $("queue").replaceChildren();
  promptChanged();
  show();
  showState();
}

let listening = false;

async function start() {
  try {
    model = await get("/v1/model");
    $("quality").parentElement.hidden = model.qualities.length < 2;
    $("steps").placeholder = model.default_steps;
    $("guidance").placeholder = model.default_guidance_scale;
    if (model.watermark === "always") { $("watermark").checked = true; $("watermark").disabled = true; }
    draw();
    await Promise.all([loadPage(), loadActive()]);
    if (!listening) {
      listening = true;
      listen("/v1/events", changed, (connected) => { if (connected) catchUp().catch(() => {}); showState(); });
      setInterval(showState, 10000);
      setInterval(show, 30000);
    }
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) problem(error);
    showState();
  }
}

translatePage();
wire();
start();
