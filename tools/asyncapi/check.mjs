// Judges nats/asyncapi.json: by the parser of AsyncAPI's authors, and every example by its schema.
//
// Arguments: the folder that holds asyncapi.json and schemas/. Ends with 1 if anything is wrong.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Parser } from "@asyncapi/parser";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

const folder = process.argv[2];
const text = readFileSync(join(folder, "asyncapi.json"), "utf8");
const wrong = [];

const { document, diagnostics } = await new Parser().parse(text);
// 0 is an error and 1 a warning. The rest are hints, which ask for a contact and a licence.
const bad = diagnostics.filter((found) => found.severity <= 1);
wrong.push(...bad.map((found) => `${found.path.join("/")}: ${found.message}`));
if (!document) wrong.push("the parser makes no document of it");

const ajv = addFormats(new Ajv2020({ strict: true, strictRequired: false, strictTypes: false, allowUnionTypes: true }));
// What schemas of OpenAPI say beside the formats of JSON Schema.
for (const format of ["int32", "int64", "uint32", "uint64"]) ajv.addFormat(format, true);
let examples = 0;

function judge(name, schema, bodies) {
  let valid;
  try {
    valid = ajv.compile(schema);
  } catch (error) {
    wrong.push(`${name}: ${error.message}`);
    return;
  }
  for (const body of bodies) {
    examples += 1;
    if (!valid(body)) wrong.push(`${name}: ${JSON.stringify(body)}: ${ajv.errorsText(valid.errors)}`);
  }
}

const files = readdirSync(join(folder, "schemas")).sort();
const names = new Set();
for (const file of files) {
  const schema = JSON.parse(readFileSync(join(folder, "schemas", file), "utf8"));
  names.add(schema.title);
  judge(file, schema, schema.examples);
  for (const [part, { examples: shown }] of Object.entries(schema.$defs ?? {})) {
    if (shown) judge(`${file}, ${part}`, { $ref: `${schema.$id}#/$defs/${part}` }, shown);
  }
  // A schema that lets everything through proves nothing. Every message is an object, but for the unreadable one.
  if (schema.title !== "Unreadable" && ajv.getSchema(schema.$id)?.([])) wrong.push(`${file}: takes an empty list`);
}

// The document says the same as the files.
const { components } = JSON.parse(text.replaceAll("#/components/schemas/", "#/$defs/"));
for (const [name, { payload, examples: shown }] of Object.entries(components.messages)) {
  if (!names.delete(name)) wrong.push(`${name}: no schema of its own`);
  const whole = { $id: `urn:document:${name}`, $defs: components.schemas, ...payload };
  judge(`asyncapi.json, ${name}`, whole, shown.map((example) => example.payload));
}
for (const name of names) wrong.push(`${name}: no message of the document`);

for (const line of wrong) console.error(`asyncapi: ${line}`);
console.log(`asyncapi: ${files.length} schemas and ${examples} examples checked, ${wrong.length} wrong`);
process.exit(wrong.length === 0 && examples > 0 ? 0 : 1);
