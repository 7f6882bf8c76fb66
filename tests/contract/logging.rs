//! Log lines: `docs/logging.md` explains every field, and no field carries a secret.

use crate::markdown::Document;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/logging.md";
/// Macros that write a log line. Our own macro for a line with a variable level uses `$level`.
const MACROS: [&str; 6] = ["trace!(", "debug!(", "info!(", "warn!(", "error!(", "$level!("];
/// The JSON fields that every line has.
const ALWAYS: [&str; 4] = ["timestamp", "level", "message", "target"];

/// A log line in the source code.
#[derive(Debug)]
struct Line {
    path: String,
    level: String,
    /// Its fields and the expressions that fill them.
    fields: Vec<(String, String)>,
    /// Its text, without placeholders.
    text: String,
}

/// Every source file of the program, by its path from the root of the repository.
pub(crate) fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders = vec![root.join("common"), root.join("services")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let shown = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                found.push((shown, text));
            }
        }
    }
    found
}

fn lines() -> Vec<Line> {
    sources().iter().flat_map(|(path, text)| lines_of(path, text)).collect()
}

fn lines_of(path: &str, source: &str) -> Vec<Line> {
    let mut found = Vec::new();
    for (at, start) in source.match_indices("tracing::") {
        let rest = &source[at + start.len()..];
        let Some(name) = MACROS.into_iter().find(|name| rest.starts_with(name)) else { continue };
        let mut line = Line {
            path: path.to_owned(),
            level: name.trim_end_matches("!(").to_owned(),
            fields: Vec::new(),
            text: String::new(),
        };
        for argument in arguments(&rest[name.len()..]) {
            if let Some(text) = argument.strip_prefix('"') {
                line.text = text.trim_end_matches('"').to_owned();
                break;
            }
            let (field, value) = argument.split_once('=').unwrap_or((&argument, &argument));
            line.fields
                .push((field.trim().trim_start_matches(['%', '?']).to_owned(), value.trim().to_owned()));
        }
        found.push(line);
    }
    found
}

/// The arguments of a call; `code` begins after the opening parenthesis.
fn arguments(code: &str) -> Vec<String> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for one in code.chars() {
        match one {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted && depth > 0 => depth -= 1,
            ')' if !quoted => break,
            ',' if !quoted && depth == 0 => {
                found.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(one);
    }
    found.push(current.trim().to_owned());
    found.retain(|argument| !argument.is_empty());
    found
}

fn fields(lines: &[Line]) -> BTreeSet<String> {
    lines.iter().flat_map(|line| line.fields.iter().map(|(field, _)| field.clone())).collect()
}

#[test]
fn documented_fields_match_the_logged_ones() {
    let written = fields(&lines());
    assert!(written.len() > 30, "only {} fields were found", written.len());
    assert_eq!(Document::read(PAGE).names("Fields", 0), written);
}

#[test]
fn fields_are_plain_dotted_names() {
    for Line { path, fields, text, .. } in lines() {
        for (field, _) in fields {
            let is_plain = |part: &str| {
                part.starts_with(|first: char| first.is_ascii_lowercase())
                    && part
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            };
            assert!(field.split('.').all(is_plain), "{path}: {field} in {text:?}");
        }
    }
}

#[test]
fn nothing_secret_is_logged() {
    let never = Document::read(PAGE).names("Never logged", 0);
    for Line { path, level: _, fields, text } in lines() {
        for (field, value) in fields {
            assert!(!value.contains("expose"), "{path}: {field} of {text:?} shows a secret");
            let named = never.iter().find(|never| field.contains(never.as_str()));
            assert!(named.is_none(), "{path}: {field} of {text:?} is on the never-log list");
        }
    }
}

#[test]
fn canonical_log_lines_have_the_documented_fields() {
    let page = Document::read(PAGE);
    let shown = |heading: &str| -> BTreeSet<String> {
        let blocks = page.blocks("json");
        let lines: Vec<_> = blocks
            .iter()
            .filter(|block| block.heading == heading)
            .flat_map(|block| block.code.lines())
            .collect();
        assert!(!lines.is_empty(), "no line below {heading:?}");
        let keys = lines.iter().flat_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            line.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        });
        keys.filter(|key| !ALWAYS.contains(&key.as_str())).collect()
    };
    let all = lines();
    let of = |path: &str, text: &str| -> BTreeSet<String> {
        let found: Vec<_> =
            all.iter().filter(|line| line.path == path && line.text.starts_with(text)).collect();
        assert!(!found.is_empty(), "{path} writes no line {text:?}");
        found.iter().flat_map(|line| line.fields.iter().map(|(field, _)| field.clone())).collect()
    };
    assert_eq!(shown("A request"), of("services/ingress/src/access.rs", "{method} {route} {status}"));
    let delivery: BTreeSet<_> = ["deleted {}", "attempt {attempts} of {}", "deletion of {} is parked"]
        .into_iter()
        .flat_map(|text| of("services/reaper/src/reap.rs", text))
        .collect();
    assert_eq!(shown("A delivery"), delivery);
}

#[test]
fn log_lines_are_parsed_from_source() {
    let source = r#"tracing::info!(a.b = f(x, "), y"), %error, ?kind, n = %g(), "said {}, twice", x); tracing::$level!("{a}")"#;
    let lines = lines_of("x.rs", source);
    assert_eq!(fields(&lines), ["a.b", "error", "kind", "n"].map(ToOwned::to_owned).into());
    assert_eq!((lines[0].text.as_str(), lines[0].level.as_str()), ("said {}, twice", "info"));
    assert_eq!((lines[1].text.as_str(), lines[1].fields.len()), ("{a}", 0));
}
