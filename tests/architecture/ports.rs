//! A port, its adapter and its fake sit together: every promise is kept at least twice (house style, rule 2).

use crate::code::Code;
use crate::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};

/// The files of the ports that have adapters. (Clock and chance keep their fakes beside them, in one file.)
const PORTS: [&str; 5] = ["bus", "bus/feed", "provider", "secrets", "store"];
/// The other side of the bus: the services keep these, and the bus calls them.
const CALLED_BY_THE_BUS: [&str; 4] = ["Handler", "Runner", "ServiceInfo", "Worker"];
/// Pointers that pass a promise on and do not keep one.
const POINTERS: [&str; 3] = ["Arc", "Box", "Rc"];

/// Every port trait that fewer than two types keep: the real one and a fake.
fn kept_once(tree: &Tree) -> Vec<String> {
    let keepers = keepers(tree);
    let mut findings = Vec::new();
    for code in PORTS.iter().filter_map(|port| {
        let path = tree.ending(&format!("common/src/{port}.rs")).next()?;
        Some(Code::new(path.0, path.1))
    }) {
        for index in code.find(&["pub", "trait"]) {
            let name = code.text(Some(index + 2));
            let types = keepers.get(name).cloned().unwrap_or_default();
            if types.len() < 2 && !CALLED_BY_THE_BUS.contains(&name) {
                let message = format!("`{name}` needs a real implementation and a fake; there is {types:?}");
                findings.push(code.finding(index, &message));
            }
        }
    }
    findings
}

/// For every trait, the types that implement it.
fn keepers(tree: &Tree) -> BTreeMap<String, BTreeSet<String>> {
    let mut keepers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for code in Code::all(tree) {
        for index in code.find(&["impl"]) {
            if let Some((kept, keeper)) = implementation(&code, index) {
                keepers.entry(kept).or_default().insert(keeper);
            }
        }
    }
    keepers
}

/// The names of trait and type in `impl<…> a::Trait<…> for b::Type<…>`; none for other blocks.
fn implementation(code: &Code<'_>, start: usize) -> Option<(String, String)> {
    let (mut depth, mut name, mut kept) = (0_usize, String::new(), None);
    for token in code.tokens.get(start + 1..)? {
        match token.text.as_str() {
            "<" => depth += 1,
            ">" => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            "for" => kept = Some(std::mem::take(&mut name)),
            "{" | "where" => break,
            ";" | ")" | "," | "=" => return None,
            word if word.starts_with(char::is_alphabetic) => name = word.to_owned(),
            _ => {}
        }
    }
    kept.filter(|kept| !kept.is_empty() && !POINTERS.contains(&name.as_str())).map(|kept| (kept, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn every_port_is_kept_twice() {
        assert_none(&kept_once(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn a_port_without_a_fake_is_found() {
        let port = "pub trait Store: Send { fn f(&self) -> impl Sized; }\nimpl<T: Store> Store for Arc<T> {}";
        let real = "impl super::Store for DynamoStore<'_> {}";
        let tree = |fake| {
            kept_once(&Tree::of(&[
                ("common/src/store.rs", port),
                ("common/src/store/dynamodb.rs", real),
                ("common/src/store/memory.rs", fake),
            ]))
        };
        assert_none(&tree("impl<A> Store for Memory<A> where A: Sized {}"));
        assert_one(&tree("impl Memory {} fn f(a: impl Fn() -> u8) { for b in Store {} }"), "`Store` needs");
        assert_one(&tree("impl Store for DynamoStore<'static> {}"), "DynamoStore");
    }
}
