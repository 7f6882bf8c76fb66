//! Every port has at least two implementations: an adapter and a fake.

use crate::tree::Tree;
use std::collections::{BTreeMap, BTreeSet};

/// The files of the ports that have adapters. (Those of clock and random numbers are in the same file.)
const PORTS: [&str; 6] = ["bus", "bus/feed", "engine", "provider", "secrets", "store"];
/// Traits that services implement and the bus calls.
const CALLED_BY_THE_BUS: [&str; 4] = ["Handler", "Runner", "ServiceInfo", "Worker"];
/// Smart pointers, which only forward to an implementation.
const POINTERS: [&str; 3] = ["Arc", "Box", "Rc"];

/// Every port trait with fewer than two implementations.
fn kept_once(tree: &Tree) -> Vec<String> {
    let keepers = keepers(tree);
    let mut findings = Vec::new();
    for port in PORTS {
        let path = format!("common/ports/src/{port}.rs");
        let text = tree.text(&path).unwrap_or_default();
        for (index, line) in text.lines().enumerate() {
            let Some(name) = line.strip_prefix("pub trait ").map(first_word) else { continue };
            let types = keepers.get(name).cloned().unwrap_or_default();
            if types.len() < 2 && !CALLED_BY_THE_BUS.contains(&name) {
                let line = index + 1;
                findings
                    .push(format!("{path}:{line}: `{name}` needs an adapter and a fake; there is {types:?}"));
            }
        }
    }
    findings
}

/// For every trait, the types that implement it, from the lines `impl<…> a::Trait<…> for b::Type<…>`.
fn keepers(tree: &Tree) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut keepers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, text) in tree.ending(".rs") {
        let blocks = text.lines().filter_map(|line| line.trim_start().strip_prefix("impl"));
        for (kept, keeper) in blocks.filter_map(|line| line.split_once(" for ")) {
            let kept = kept.rsplit([' ', ':', '>']).next().unwrap_or_default();
            let keeper = keeper.split([' ', '<']).next().unwrap_or_default();
            let keeper = first_word(keeper.rsplit(':').next().unwrap_or_default());
            if !POINTERS.contains(&keeper) {
                keepers.entry(kept).or_default().insert(keeper);
            }
        }
    }
    keepers
}

fn first_word(text: &str) -> &str {
    text.split(|character: char| !character.is_alphanumeric() && character != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn every_port_has_an_adapter_and_a_fake() {
        assert_none(&kept_once(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn a_port_without_a_fake_is_found() {
        let port = "pub trait Store: Send {}\nimpl<T: Store> Store for Arc<T> {}";
        let real = "impl ports::store::Store for DynamoStore<'_> {}";
        let tree = |fake| {
            kept_once(&Tree::of(&[
                ("common/ports/src/store.rs", port),
                ("common/dynamodb/src/lib.rs", real),
                ("tests/testkit/src/store.rs", fake),
            ]))
        };
        assert_none(&tree("impl<A> Store for Memory<A> where A: Sized {}"));
        assert_one(&tree("impl Memory {} fn f() { for b in Store {} }"), "`Store` needs");
        assert_one(&tree("impl Store for DynamoStore<'static> {}"), "DynamoStore");
    }
}
