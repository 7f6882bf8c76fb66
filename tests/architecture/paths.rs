//! The paths that a file names: in `use`, and written out in the middle of code.

use crate::code::Code;
use std::collections::BTreeMap;

/// A path as far as it was written, resolved through the file's own imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mention {
    /// Its parts; a glob ends in `*`.
    pub(crate) parts: Vec<String>,
    /// Where it begins, as an index of the file's tokens.
    pub(crate) index: usize,
    /// Whether it stands in a `use`. Only then must its first part be a crate, a module or an imported name.
    pub(crate) is_use: bool,
}

/// All paths of a file outside its tests.
pub(crate) fn mentions(code: &Code<'_>) -> Vec<Mention> {
    let mut found = Vec::new();
    let mut imported = BTreeMap::new();
    let mut index = 0;
    while index < code.tokens.len() {
        let before = code.text(index.checked_sub(1));
        index = match code.text(Some(index)) {
            "use" if before != "." && code.text(Some(index + 1)) != "<" => {
                use_tree(code, index + 1, &[], &mut found, &mut imported)
            }
            _ if starts_path(code, index) => written_out(code, index, &mut found),
            _ => index + 1,
        };
    }
    for mention in &mut found {
        let whole = mention.parts.first().and_then(|first| imported.get(first));
        if let Some(whole) = whole.filter(|whole| whole.len() > 1) {
            let whole: &Vec<String> = whole;
            mention.parts.splice(..1, whole.iter().cloned());
        }
    }
    found.retain(|mention| !code.is_test(mention.index));
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Whether a path begins here that has at least two parts.
fn starts_path(code: &Code<'_>, index: usize) -> bool {
    let continues = match code.text(index.checked_sub(1)) {
        "." => true,
        "::" => {
            let before = code.text(index.checked_sub(2));
            is_name(before) || before == ">"
        }
        _ => false,
    };
    is_name(code.text(Some(index))) && code.text(Some(index + 1)) == "::" && !continues
}

/// Reads a path in the middle of code; returns the index after it.
fn written_out(code: &Code<'_>, start: usize, found: &mut Vec<Mention>) -> usize {
    let mut parts = vec![code.text(Some(start)).to_owned()];
    let mut index = start + 1;
    while code.text(Some(index)) == "::" && is_name(code.text(Some(index + 1))) {
        parts.push(code.text(Some(index + 1)).to_owned());
        index += 2;
    }
    found.push(Mention { parts, index: start, is_use: false });
    index
}

/// Reads one branch of a `use`; returns the index after it.
fn use_tree(
    code: &Code<'_>,
    start: usize,
    prefix: &[String],
    found: &mut Vec<Mention>,
    imported: &mut BTreeMap<String, Vec<String>>,
) -> usize {
    let mut parts = prefix.to_vec();
    let mut index = start;
    loop {
        match code.text(Some(index)) {
            "::" => index += 1,
            "{" => {
                index += 1;
                while !matches!(code.text(Some(index)), "}" | "") {
                    index = use_tree(code, index, &parts, found, imported);
                    index += usize::from(code.text(Some(index)) == ",");
                }
                return index + 1;
            }
            "as" => {
                imported.insert(code.text(Some(index + 1)).to_owned(), parts.clone());
                found.push(Mention { parts, index: start, is_use: true });
                return index + 2;
            }
            "self" if !parts.is_empty() => index += 1,
            part if part == "*" || is_name(part) => {
                parts.push(part.to_owned());
                index += 1;
            }
            _ => {
                imported.insert(parts.last().cloned().unwrap_or_default(), parts.clone());
                found.push(Mention { parts, index: start, is_use: true });
                return index.max(start + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        mentions(&Code::new("common/src/x.rs", source))
            .iter()
            .map(|mention| mention.parts.join("::"))
            .collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        assert_eq!(
            found("pub(crate) use crate::{a::{self, B as C}, d::*}; use ::std::fmt; use x as _;"),
            ["crate::a", "crate::a::B", "crate::d::*", "std::fmt", "x"]
        );
        assert_eq!(found("fn f() -> impl Sized + use<'a> {}"), Vec::<String>::new());
    }

    #[test]
    fn written_out_paths_are_found_and_resolved() {
        assert_eq!(found("let x = async_nats::connect(y).a::<B::C>();"), ["async_nats::connect", "B::C"]);
        assert_eq!(found("use crate::a as b; b::C::d()"), ["crate::a", "crate::a::C::d"]);
        assert_eq!(found("use std::time; time::sleep()"), ["std::time", "std::time::sleep"]);
        assert_eq!(found("use a::b; use b::C;"), ["a::b", "a::b::C"]);
        assert_eq!(found("#[tokio::main] <T>::f(); ::serde::x"), ["tokio::main", "serde::x"]);
    }

    #[test]
    fn tests_and_comments_count_for_nothing() {
        assert_eq!(found("// a::b\n#[cfg(test)] mod t { use c::d; } \"e::f\""), Vec::<String>::new());
    }
}
