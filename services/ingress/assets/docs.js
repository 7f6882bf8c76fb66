// Shows /v1/openapi.json. Everything is set as text, so nothing in the document can become markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

function make(name, text, ...children) {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  node.append(...children.filter(Boolean));
  return node;
}

function marked(className, text) {
  const node = make("span", text);
  node.className = className;
  return node;
}

function folded(summary, ...content) {
  return make("details", "", make("summary", "", ...summary), ...content);
}

function shown(value) {
  return make("pre", typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

function resolve(document_, schema) {
  const path = schema && schema.$ref ? schema.$ref.replace("#/", "").split("/") : null;
  return path ? path.reduce((node, part) => node && node[part], document_) : schema;
}

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const types = [].concat(schema.type || []).join(" or ");
  return schema.items ? `${types} of ${kind(schema.items)}` : types;
}

function fields(document_, schema) {
  const whole = resolve(document_, schema);
  const parts = whole && whole.allOf ? whole.allOf.map((part) => resolve(document_, part)) : [whole];
  const all = Object.assign({}, ...parts.map((part) => (part && part.properties) || {}));
  const rows = Object.entries(all).map(([name, field]) =>
    make("tr", "", make("td", "", make("code", name)), make("td", kind(field)), make("td", field.description || "")));
  return rows.length ? make("table", "", ...rows) : null;
}

function parameters(list) {
  const rows = (list || []).map((one) =>
    make("tr", "",
      make("td", "", make("code", one.name)),
      make("td", one.in + (one.required ? ", needed" : "")),
      make("td", one.description || "")));
  return rows.length ? make("table", "", ...rows) : null;
}

function contents(document_, content) {
  return Object.entries(content || {}).flatMap(([type, body]) => [
    type === "application/json" ? null : make("p", type),
    fields(document_, body.schema),
    body.example === undefined ? null : shown(body.example),
    ...Object.entries(body.examples || {}).map(([name, one]) => folded([make("code", name)], shown(one.value))),
  ]);
}

function operation(document_, method, path, one) {
  const answers = Object.entries(one.responses || {}).map(([status, response]) => {
    const answer = resolve(document_, response);
    return folded([marked("status", status), answer.description || ""], ...contents(document_, answer.content));
  });
  const body = one.requestBody && resolve(document_, one.requestBody);
  const needs = (one.security || []).flatMap(Object.keys).join(" or ");
  return folded(
    [marked("method", method.toUpperCase()), make("code", path), ` ${one.summary || ""}`],
    one.description ? make("p", one.description) : null,
    make("p", needs ? `Token: ${needs}` : "No token is needed."),
    parameters(one.parameters),
    body ? folded(["Body"], ...contents(document_, body.content)) : null,
    ...answers);
}

async function show() {
  const about = document.getElementById("about");
  const answer = await fetch("/v1/openapi.json");
  if (!answer.ok) throw new Error(`the description cannot be had: ${answer.status}`);
  const document_ = await answer.json();
  about.replaceChildren(`${document_.info.title} ${document_.info.version}. ${document_.info.description || ""} `);
  const link = make("a", "The description as JSON");
  link.href = "/v1/openapi.json";
  about.append(link);
  const groups = new Map();
  for (const [path, item] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const one = item[method];
      const group = (one.tags || ["other"])[0];
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(operation(document_, method, path, one));
    }
  }
  const routes = document.getElementById("routes");
  for (const [name, operations] of groups) routes.append(make("h2", name), ...operations);
}

show().catch((error) => { document.getElementById("about").textContent = String(error.message || error); });
