// The OpenAPI document of this server as a page; nothing comes from another host.

// `Names` in backticks become code, **words** in asterisks strong.
function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  for (const part of text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean)) {
    const inner = part.startsWith("`") ? "code" : part.startsWith("**") ? "strong" : null;
    if (!inner) element.append(part);
    else element.append(Object.assign(document.createElement(inner), { textContent: part.replace(/^(`|\*\*)|(`|\*\*)$/g, "") }));
  }
  if (className) element.className = className;
  return element;
}

const document_ = await (await fetch("/openapi.json")).json();

function resolve(schema) {
  return schema?.$ref ? document_.components.schemas[schema.$ref.split("/").at(-1)] : schema;
}

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind))].join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array" && schema.items?.anyOf) return `(${kind(schema.items)})[]`;
  if (schema.type === "array") return `${kind(schema.items)}[]`;
  return schema.format === "binary" ? "file" : schema.type || "any";
}

function table(rows) {
  const made = make("table");
  for (const [name, type, text] of rows) {
    const row = made.insertRow();
    row.append(make("td"), make("td", type), make("td", text));
    row.cells[0].append(make("code", name));
  }
  return made;
}

function fields(schema) {
  const whole = resolve(schema) || {};
  const needed = new Set(whole.required || []);
  return Object.entries(whole.properties || {}).map(([name, field]) => [
    name + (needed.has(name) ? " *" : ""), kind(field),
    [field.description, field.default !== undefined && field.default !== null && !Array.isArray(field.default) ? `Default: ${JSON.stringify(field.default)}.` : ""].filter(Boolean).join(" "),
  ]);
}

function operation(path, verb, content) {
  const details = make("details", "", "operation");
  const summary = make("summary");
  summary.append(make("span", verb.toUpperCase(), "verb"), make("code", path), make("span", ` ${content.description || content.summary || ""}`));
  details.append(summary);
  if (content.parameters?.length) {
    details.append(table(content.parameters.map((one) => [one.name + (one.required ? " *" : ""), `${one.in}: ${kind(one.schema)}`, one.description || one.schema?.description || ""])));
  }
  for (const [type, body] of Object.entries(content.requestBody?.content || {})) {
    details.append(make("p", `Body, ${type}${body.schema?.$ref ? ` (${kind(body.schema)})` : ""}`), table(fields(body.schema)));
  }
  const answers = Object.entries(content.responses || {}).map(([status, reply]) => [status, Object.entries(reply.content || {}).map(([type, one]) => kind(one.schema) || type).join(", "), reply.description || ""]);
  details.append(make("p", "Answers"), table(answers));
  return details;
}

const page = document.getElementById("docs");
page.append(make("h1", `${document_.info.title} ${document_.info.version}`));
for (const paragraph of document_.info.description.split("\n\n")) page.append(make("p", paragraph));
const sections = new Map();
for (const [path, verbs] of Object.entries(document_.paths)) {
  for (const [verb, content] of Object.entries(verbs)) {
    const tag = content.tags?.[0] || "Other";
    if (!sections.has(tag)) sections.set(tag, make("section"));
    if (!sections.get(tag).children.length) sections.get(tag).append(make("h2", tag));
    sections.get(tag).append(operation(path, verb, content));
  }
}
const shapes = make("section");
shapes.append(make("h2", "Bodies and answers"));
for (const [name, schema] of Object.entries(document_.components.schemas).sort()) {
  if (!schema.properties) continue;
  const details = make("details", "", "schema");
  const summary = make("summary", schema.description ? ` ${schema.description.split("\n\n")[0]}` : "");
  summary.prepend(make("code", name));
  details.append(summary, table(fields(schema)));
  shapes.append(details);
}
page.append(...sections.values(), shapes);
