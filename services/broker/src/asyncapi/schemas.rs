//! Schemas of the contract's types. Those of OpenAPI 3.1 are JSON Schema 2020-12 as they stand; what is added are
//! limits and demands that the types leave to the worker.

use anyhow::Context as _;
use domain::ids::{HEADER_ID_BYTES_MAX, POOL_NAME_BYTES_MAX, SANDBOX_ID_BYTES_MAX};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// Where schemas stand in the document.
const COMPONENTS: &str = "#/components/schemas/";
/// Where they stand in a file of their own.
const DEFINITIONS: &str = "#/$defs/";
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// How the description of a required field ends. The type makes the field optional, because the worker has a separate
/// fault code for what is missing.
const REQUIRED: &str = "; required.";
/// How the type of a request is called.
const REQUEST: &str = "Request";

/// The schemas that were taken so far.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    by_name: BTreeMap<String, Value>,
}

// === impl Schemas ===

impl Schemas {
    /// Takes the schema of `T` and of all that it is made of; returns a reference to it. A type that only wraps another
    /// one on the wire has no separate schema: it is returned as it is.
    ///
    /// # Errors
    /// When a schema is no JSON.
    pub(super) fn take<T: ToSchema>(&mut self) -> anyhow::Result<Value> {
        let mut parts: Vec<(String, RefOr<Schema>)> = Vec::new();
        T::schemas(&mut parts);
        for (name, schema) in parts {
            self.keep(name, serde_json::to_value(schema)?);
        }
        let (name, schema) = (T::name().into_owned(), serde_json::to_value(T::schema())?);
        if std::any::type_name::<T>().contains('<') {
            return Ok(tidied(schema));
        }
        self.keep(name.clone(), schema);
        Ok(json!({ "$ref": format!("{COMPONENTS}{name}") }))
    }

    fn keep(&mut self, name: String, schema: Value) {
        let mut schema = tidied(schema);
        if name.ends_with(REQUEST) {
            demand(&mut schema);
        }
        self.by_name.insert(name, schema);
    }

    /// Adds an example to the schema of a part of messages.
    ///
    /// # Errors
    /// When it is no JSON.
    pub(super) fn show(&mut self, name: &str, example: &str) -> anyhow::Result<()> {
        let schema = self.by_name.get_mut(name).and_then(Value::as_object_mut);
        let schema = schema.with_context(|| format!("there is no schema {name}"))?;
        schema.insert("examples".to_owned(), json!([parsed(example)?]));
        Ok(())
    }

    /// All of them, for the components of the document.
    pub(super) fn in_document(&self) -> &BTreeMap<String, Value> {
        &self.by_name
    }

    /// A schema that needs no other file.
    pub(super) fn standing_alone(&self, name: &str, payload: &Value, examples: &[Value]) -> Value {
        let mut needed = BTreeMap::new();
        let mut open = references(payload);
        while let Some(name) = open.pop() {
            if let Some(schema) = self.by_name.get(&name).filter(|_| !needed.contains_key(&name)) {
                open.extend(references(schema));
                needed.insert(name, schema.clone());
            }
        }
        let mut root = payload.clone();
        if let Some(fields) = root.as_object_mut() {
            fields.insert("$schema".to_owned(), DIALECT.into());
            fields.insert("$id".to_owned(), format!("urn:sandbox-broker:v1:{name}").into());
            fields.insert("title".to_owned(), name.into());
            fields.insert("examples".to_owned(), examples.into());
            if !needed.is_empty() {
                fields.insert("$defs".to_owned(), json!(needed));
            }
        }
        moved(root)
    }
}

/// The fields that a request has to have, and how long they may be.
fn demand(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let mut required = Vec::new();
    for (name, property) in properties.iter_mut() {
        let description = property.get("description").and_then(Value::as_str).unwrap_or_default();
        if description.ends_with(REQUIRED) {
            required.push(Value::from(name.as_str()));
        }
        if let (Some(limits), Some(property)) = (limits(name), property.as_object_mut()) {
            property.extend(limits);
        }
    }
    if let Some(fields) = schema.as_object_mut().filter(|_| !required.is_empty()) {
        let mut all = fields.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        all.extend(required.into_iter().filter(|name| !all.contains(name)).collect::<Vec<_>>());
        fields.insert("required".to_owned(), all.into());
    }
}

/// What the worker checks of a field, wherever a request has one of that name.
fn limits(field: &str) -> Option<Map<String, Value>> {
    let (bytes_max, pattern) = match field {
        "owner" | "lab" | "idempotency_key" => (HEADER_ID_BYTES_MAX, "^[!-~]+$"),
        "sandbox_id" => (SANDBOX_ID_BYTES_MAX, "^[A-Za-z0-9_-]+$"),
        "pool" => (POOL_NAME_BYTES_MAX, "^[A-Za-z0-9_-]+$"),
        _ => return None,
    };
    let limits = json!({ "minLength": 1, "maxLength": bytes_max, "pattern": pattern });
    limits.as_object().cloned()
}

/// The names of the schemas that this one refers to.
fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own =
                fields.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix(COMPONENTS));
            own.map(ToOwned::to_owned).into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The same with references to definitions in the same file.
fn moved(schema: Value) -> Value {
    each_text(schema, &|key, text| match text.strip_prefix(COMPONENTS).filter(|_| key == "$ref") {
        Some(name) => format!("{DEFINITIONS}{name}"),
        None => text,
    })
}

/// Descriptions without the marks by which the documentation of the code links to it.
fn tidied(schema: Value) -> Value {
    each_text(schema, &|key, text| match key {
        "description" => text.replace("[`", "`").replace("`]", "`"),
        _ => text,
    })
}

fn each_text(value: Value, change: &dyn Fn(&str, String) -> String) -> Value {
    let changed = |(key, value): (String, Value)| match value {
        Value::String(text) => (key.clone(), Value::String(change(&key, text))),
        other => (key, each_text(other, change)),
    };
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().map(changed).collect()),
        Value::Array(values) => values.into_iter().map(|value| each_text(value, change)).collect(),
        other => other,
    }
}

/// The same with its fields in the order of their names, whatever the library is built to do.
pub(super) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<_, _> =
                fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// An example as JSON.
///
/// # Errors
/// When it is none.
pub(super) fn parsed(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("an example is no JSON: {text}"))
}
