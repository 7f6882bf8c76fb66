//! Dependencies point one way: domain, then promises, then adapters, then services (house style, rules 1, 3, 12).

use crate::code::Code;
use crate::paths::{Mention, mentions};
use crate::tree::Tree;
use std::collections::BTreeSet;

/// What the language brings.
const LANGUAGE: [&str; 3] = ["std", "core", "alloc"];
/// All that the domain needs beside the language.
const DOMAIN_CRATES: [&str; 2] = ["thiserror", "time"];
/// What a promise may be made of: words for waiting, bytes, errors and chance, and no client of anything.
const PROMISE_CRATES: [&str; 10] = [
    "async_trait",
    "bytes",
    "fastrand",
    "futures_util",
    "thiserror",
    "time",
    "tokio",
    "tokio_util",
    "tracing",
    "uuid",
];
/// What only `contract` adds: it says how things look on the wire, and describes that to the API's document.
const WIRE_CRATES: [&str; 3] = ["serde", "serde_json", "utoipa"];
/// Clients of the world outside; only adapters may hold them.
const SDK_CRATES: [&str; 3] = ["async_nats", "reqwest", "rusqlite"];
/// What answers HTTP, and the services that do.
const HTTP_CRATES: [&str; 4] = ["axum", "hyper", "tower", "tower_http"];
const HTTP_SERVICES: [&str; 3] = ["broker", "ingress", "simulator"];
/// The one service that knows the others and chooses the adapters.
const WIRING: &str = "broker";

/// The module of `common` through which the fuzz targets get at private parsers. It stands in no layer.
const DOOR: &str = "door";
const DOOR_REASON: &str = "the door is for the fuzz targets alone";

/// Where a module of `common` stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layer {
    Domain,
    /// A promise; `is_wire` for those below `contract`.
    Promise {
        is_wire: bool,
    },
    /// An adapter; the family is the port that it keeps, or `runtime`, or `aws`, which adapters of several ports are made with.
    Adapter {
        family: String,
    },
}

/// Every import against the direction.
fn against_direction(tree: &Tree) -> Vec<String> {
    let crates = known_crates(tree);
    let mut findings = Vec::new();
    for code in Code::all(tree) {
        let parts: Vec<_> = code.path.split('/').collect();
        match parts.as_slice() {
            ["common", "src", ..] => in_common(tree, &code, &crates, &mut findings),
            ["services", service, "src", ..] => in_service(tree, &code, service, &mut findings),
            _ => {}
        }
    }
    findings
}

/// The crates that the workspace knows, by the names they have in code.
fn known_crates(tree: &Tree) -> BTreeSet<String> {
    let manifest = tree.text("Cargo.toml").unwrap_or_default();
    let names = manifest.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.trim());
    let names = names.map(|name| name.trim_end_matches("-rs").replace('-', "_"));
    names.chain(LANGUAGE.map(str::to_owned)).collect()
}

fn is_sdk(name: &str) -> bool {
    SDK_CRATES.contains(&name) || (name.starts_with("aws_") && name != "aws_lc_rs")
}

fn in_common(tree: &Tree, code: &Code<'_>, crates: &BTreeSet<String>, findings: &mut Vec<String>) {
    let module = module_of(code.path);
    if module == [DOOR] {
        return;
    }
    let layer = layer_of(tree, &module);
    if layer.is_none() && !module.is_empty() {
        findings.push(format!("{}: this module stands in no layer; give it one in layers.rs", code.path));
    }
    let Some(layer) = layer else { return };
    let children = submodules(code);
    for mention in mentions(code) {
        let Some(first) = mention.parts.first().map(String::as_str) else { continue };
        let reason = if matches!(first, "crate" | "self" | "super") {
            let target = resolve(&module, &mention);
            if target.first().is_some_and(|first| first == DOOR) {
                Some(DOOR_REASON.to_owned())
            } else {
                layer_of(tree, &target).and_then(|target| refused_layer(&layer, &target))
            }
        } else {
            let is_crate = crates.contains(first)
                || (mention.is_use && first.starts_with(char::is_lowercase) && !children.contains(first));
            is_crate.then(|| refused_crate(&layer, first)).flatten()
        };
        if let Some(reason) = reason {
            let path = mention.parts.join("::");
            findings.push(code.finding(mention.index, &format!("`{path}`: {reason}")));
        }
    }
}

/// `common/src/store/dynamodb.rs` is the module `store`, `dynamodb`; the root of the crate is empty.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("common/src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// The modules that a file declares.
fn submodules(code: &Code<'_>) -> BTreeSet<String> {
    code.find(&["mod"]).into_iter().map(|index| code.text(Some(index + 1)).to_owned()).collect()
}

/// A path within this workspace, from the root of the crate. `super` within an inline module counts from the file.
fn resolve(module: &[String], mention: &Mention) -> Vec<String> {
    let mut target = match mention.parts.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        _ => module.to_vec(),
    };
    for part in &mention.parts {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(target.pop()),
            _ => target.push(part.clone()),
        }
    }
    target
}

fn layer_of(tree: &Tree, module: &[String]) -> Option<Layer> {
    let below = |port: &str, adapter: &str| {
        tree.has(&format!("common/src/{port}/{adapter}.rs"))
            || tree.has(&format!("common/src/{port}/{adapter}"))
    };
    match module.first()?.as_str() {
        "domain" => Some(Layer::Domain),
        "contract" => Some(Layer::Promise { is_wire: true }),
        "clock" | "random" => Some(Layer::Promise { is_wire: false }),
        family @ ("client" | "runtime" | "aws") => Some(Layer::Adapter { family: family.to_owned() }),
        port @ ("store" | "provider" | "bus" | "secrets") => match module.get(1) {
            Some(adapter) if below(port, adapter) => Some(Layer::Adapter { family: port.to_owned() }),
            _ => Some(Layer::Promise { is_wire: false }),
        },
        _ => None,
    }
}

fn refused_layer(from: &Layer, to: &Layer) -> Option<String> {
    match (from, to) {
        (Layer::Domain, Layer::Promise { .. } | Layer::Adapter { .. }) => {
            Some("the domain imports nothing else of ours".to_owned())
        }
        (Layer::Promise { .. }, Layer::Adapter { .. }) => Some("a promise knows no adapter".to_owned()),
        (Layer::Adapter { family: from }, Layer::Adapter { family: to }) => {
            let allowed = from == to || to == "runtime" || to == "aws";
            (!allowed).then(|| format!("an adapter of `{from}` knows none of `{to}`; go through the port"))
        }
        _ => None,
    }
}

fn refused_crate(layer: &Layer, name: &str) -> Option<String> {
    let allowed = match layer {
        _ if LANGUAGE.contains(&name) => true,
        Layer::Domain => DOMAIN_CRATES.contains(&name),
        Layer::Promise { is_wire } => {
            PROMISE_CRATES.contains(&name) || (*is_wire && WIRE_CRATES.contains(&name))
        }
        Layer::Adapter { family } => name != "anyhow" || family == "runtime",
    };
    (!allowed).then(|| format!("the crate `{name}` does not belong in this layer"))
}

fn in_service(tree: &Tree, code: &Code<'_>, service: &str, findings: &mut Vec<String>) {
    let services: BTreeSet<_> = tree.services().map(|name| name.replace('-', "_")).collect();
    let is_wiring = service == WIRING;
    for mention in mentions(code) {
        let mut parts = mention.parts.iter().map(String::as_str);
        let Some(first) = parts.next() else { continue };
        let reason = match first {
            "common" if mention.parts.get(1).is_some_and(|second| second == DOOR) => DOOR_REASON,
            "common" if !is_wiring => {
                let target: Vec<_> = parts.map(str::to_owned).collect();
                match layer_of(tree, &target) {
                    Some(Layer::Adapter { family }) if family != "runtime" => {
                        "a service knows ports, no adapters"
                    }
                    _ => continue,
                }
            }
            name if is_sdk(name) => "only adapters in `common` hold a client of the outside",
            "dynoxide" if !is_wiring => "only the wiring embeds a database",
            name if HTTP_CRATES.contains(&name) && !HTTP_SERVICES.contains(&service) => {
                "this service speaks no HTTP"
            }
            name if !is_wiring && name != service && services.contains(name) => {
                "services never import each other"
            }
            _ => continue,
        };
        findings.push(code.finding(mention.index, &format!("`{}`: {reason}", mention.parts.join("::"))));
    }
}

/// Every service that another one names in its manifest. A crate that no file imports is still a dependency.
fn service_dependencies(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for service in tree.services().filter(|service| *service != WIRING) {
        let path = format!("services/{service}/Cargo.toml");
        let lines = tree.text(&path).unwrap_or_default().lines();
        let names = lines.filter_map(|line| line.split(['.', ' ', '=']).next());
        let others = names.filter(|name| *name != service && tree.services().any(|other| other == *name));
        findings
            .extend(others.map(|other| format!("{path}: `{other}`: services never depend on each other")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn imports_follow_the_layers() {
        assert_none(&against_direction(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn manifests_follow_the_layers() {
        assert_none(&service_dependencies(&Tree::of_repository().unwrap()));
    }

    /// A workspace with something in each layer, and one more file.
    fn with(path: &str, text: &str) -> Vec<String> {
        against_direction(&Tree::of(&[
            ("Cargo.toml", "async-nats = 1\ndynoxide-rs = 1\nserde = 1\nuuid = 1\naxum = 1\n"),
            ("common/src/store/dynamodb.rs", ""),
            ("common/src/bus/nats.rs", ""),
            ("services/broker/Cargo.toml", ""),
            ("services/reaper/Cargo.toml", ""),
            ("services/ingress/Cargo.toml", ""),
            (path, text),
        ]))
    }

    #[test]
    fn the_domain_imports_nothing_of_ours() {
        let path = "common/src/domain/lease.rs";
        assert_none(&with(
            path,
            "use super::ids::A; use crate::domain::B; use std::fmt; use time::C; use D::*;",
        ));
        assert_one(&with(path, "use crate::contract::Fault;"), "lease.rs:1: `crate::contract::Fault`");
        assert_one(&with(path, "fn f() {\n    super::super::store::g();\n}"), "lease.rs:2:");
        assert_one(&with(path, "#[derive(serde::Serialize)] struct A;"), "`serde`");
        assert_one(&with(path, "use unheard_of::Thing;"), "`unheard_of`");
        assert_none(&with(path, "#[cfg(test)] mod tests { use serde_json::json; }"));
    }

    #[test]
    fn a_promise_knows_no_adapter_and_no_client() {
        assert_none(&with(
            "common/src/store.rs",
            "use crate::domain::A; pub mod dynamodb; use async_trait::B;",
        ));
        assert_one(
            &with(
                "common/src/store.rs",
                "pub use dynamodb::A; pub mod dynamodb; use crate::store::dynamodb::A;",
            ),
            "no adapter",
        );
        assert_one(&with("common/src/bus.rs", "fn f(a: async_nats::Client) {}"), "`async_nats`");
        assert_one(&with("common/src/clock.rs", "use serde::Serialize;"), "`serde`");
        assert_none(&with("common/src/contract/fault.rs", "use serde::Serialize;"));
    }

    #[test]
    fn an_adapter_keeps_to_its_family() {
        let path = "common/src/store/dynamodb.rs";
        assert_none(&with(
            path,
            "use crate::{bus::Pace, runtime::settings::A, store::B}; use aws_config::C;",
        ));
        assert_one(&with(path, "use crate::bus::nats::A;"), "an adapter of `store` knows none of `bus`");
        assert_one(&with(path, "use anyhow::Result;"), "`anyhow`");
        assert_none(&with("common/src/runtime/telemetry.rs", "use anyhow::Result;"));
        assert_one(&with("common/src/drawer.rs", ""), "stands in no layer");
    }

    #[test]
    fn a_service_knows_ports_only() {
        let path = "services/reaper/src/reap.rs";
        assert_none(&with(path, "use common::{store::Store, runtime::settings::A}; use tokio::time;"));
        assert_one(&with(path, "use ingress::Config;"), "never import each other");
        assert_one(&with(path, "use common::bus::nats::Bus;"), "ports, no adapters");
        assert_one(&with(path, "use common::bus; use bus::nats::Bus;"), "nats");
        assert_one(&with(path, "use aws_sdk_dynamodb::Client;"), "client of the outside");
        assert_one(&with(path, "use axum::Router;"), "speaks no HTTP");
        assert_one(&with(path, "dynoxide::Database::memory();"), "embeds a database");
        assert_none(&with("services/ingress/src/routes.rs", "use axum::Router;"));
    }

    #[test]
    fn the_door_is_for_the_fuzz_targets_alone() {
        let text = "use common::door::stored_item;";
        assert_one(&with("services/broker/src/up.rs", text), DOOR_REASON);
        assert_one(&with("common/src/store/index.rs", "use crate::door::stored_item;"), DOOR_REASON);
        assert_none(&with("fuzz/src/answers.rs", text));
        assert_none(&with("common/src/door.rs", "use crate::store::dynamodb::door;"));
    }

    #[test]
    fn the_wiring_knows_the_rest() {
        let path = "services/broker/src/up.rs";
        assert_none(&with(
            path,
            "use {common::bus::nats::Bus, dynoxide::A, ingress::Config, reaper::Config};",
        ));
        assert_one(&with(path, "use async_nats::Client;"), "client of the outside");
    }

    #[test]
    fn a_service_in_a_manifest_is_found() {
        let manifests = |text: &'static str| {
            Tree::of(&[
                ("services/broker/Cargo.toml", "[dependencies]\nreaper.workspace = true\n"),
                ("services/reaper/Cargo.toml", "[package]\nname = \"reaper\"\n"),
                ("services/ingress/Cargo.toml", text),
            ])
        };
        assert_none(&service_dependencies(&manifests("[dependencies]\ncommon.workspace = true\n")));
        let found =
            service_dependencies(&manifests("[dev-dependencies]\nreaper = { path = \"../reaper\" }\n"));
        assert_one(&found, "services/ingress/Cargo.toml: `reaper`");
    }
}
