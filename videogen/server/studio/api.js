// Talking to the server: requests with the key of this tab, errors as sentences, events as a stream.

let key = sessionStorage.getItem("videogen-key") || "";
export const needsKey = new EventTarget();

export function setKey(text) {
  key = text.trim();
  sessionStorage.setItem("videogen-key", key);
}

export class ApiError extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

function headers(extra = {}) {
  return key ? { authorization: `Bearer ${key}`, ...extra } : extra;
}

async function send(path, options = {}) {
  const reply = await fetch(path, { ...options, headers: headers(options.headers) });
  if (reply.ok) return reply;
  let error = {};
  try {
    error = (await reply.json()).error || {};
  } catch {
    // no JSON: the status says it all
  }
  if (reply.status === 401) needsKey.dispatchEvent(new Event("needed"));
  throw new ApiError(error.message || `${reply.status} ${reply.statusText}`, reply.status, error.param);
}

export async function get(path) {
  return (await send(path)).json();
}

export async function post(path, body, extra = {}) {
  return (await send(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json", ...extra },
  })).json();
}

export async function remove(path) {
  await send(path, { method: "DELETE" });
}

export async function upload(file) {
  const form = new FormData();
  form.append("file", file);
  return (await send("/v1/uploads", { method: "POST", body: form })).json();
}

const kept = new Map();

// An address that <img> and <video> can load: the path itself, or with a key what came back, kept in memory.
export async function media(path) {
  if (!key) return path;
  if (!kept.has(path)) {
    kept.set(path, send(path).then((reply) => reply.blob()).then((blob) => URL.createObjectURL(blob)));
    kept.get(path).catch(() => kept.delete(path));
  }
  return kept.get(path);
}

// Server-sent events over fetch (EventSource cannot send a key); comes back after a break.
export async function listen(path, onJob, onState) {
  let wait = 500;
  for (;;) {
    try {
      const reader = (await send(path)).body.getReader();
      onState(true);
      wait = 500;
      const decoder = new TextDecoder();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += decoder.decode(value, { stream: true });
        let end;
        while ((end = text.indexOf("\n\n")) >= 0) {
          const data = text.slice(0, end).split("\n").find((line) => line.startsWith("data: "));
          text = text.slice(end + 2);
          if (data) onJob(JSON.parse(data.slice(6)));
        }
      }
    } catch {
      // the server went, or asks for a key
    }
    onState(false);
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(10000, wait * 2);
  }
}
