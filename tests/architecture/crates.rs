//! Dependencies point downwards: domain, contract, ports, runtime, adapters, services (`docs/architecture.md`). Cargo
//! ensures that code uses only what its manifest names; this module checks what a manifest may name. `.deny.toml` says
//! which crate may use which SDK.

use crate::tree::Tree;
use std::collections::BTreeSet;

/// What every crate above the ports may depend on.
const FOUNDATION: [&str; 4] = ["domain", "contract", "ports", "runtime"];
/// Our crates in `common`, and which of our other crates each may use.
const COMMON: [(&str, &[&str]); 18] = [
    ("domain", &[]),
    ("contract", &["domain"]),
    ("ports", &["contract", "domain"]),
    ("runtime", &["contract", "domain", "ports"]),
    ("aws", &[]),
    ("client", &FOUNDATION),
    ("crypto", &[]),
    ("csp", &FOUNDATION),
    ("dynamodb", &["domain", "contract", "ports", "runtime", "aws"]),
    ("docker", &["domain", "contract", "ports", "runtime", "host", "supervisor"]),
    ("host", &["domain", "contract", "ports", "runtime"]),
    ("http-client", &["domain", "contract", "ports", "runtime", "crypto"]),
    ("namespaces", &["domain", "contract", "ports", "runtime", "host", "supervisor"]),
    ("nats", &["domain", "contract", "ports", "runtime", "crypto"]),
    ("ops", &FOUNDATION),
    ("secretsmanager", &["domain", "contract", "ports", "runtime", "aws"]),
    ("supervisor", &[]),
    // It builds the supervisor, but its code needs nothing.
    ("supervisor-image", &[]),
];
/// All that the domain needs beside the language.
const OF_DOMAIN: [&str; 3] = ["strum", "thiserror", "time"];
/// What a port may depend on: asynchronous code, bytes, errors and random numbers, but no client.
const OF_PORTS: [&str; 15] = [
    "async-trait",
    "backon",
    "base64",
    "bytes",
    "fastrand",
    "futures-util",
    "parking_lot",
    "serde",
    "serde_json",
    "strum",
    "thiserror",
    "time",
    "tokio",
    "tokio-util",
    "uuid",
];
/// What the contract uses in addition: the format on the wire, and the API's description of it.
const OF_CONTRACT: [&str; 7] = ["serde", "serde_json", "strum", "thiserror", "time", "tracing", "utoipa"];
/// HTTP servers, and the services that may use them. Those serve the operations port on their own listener.
const HTTP_CRATES: [&str; 5] = ["axum", "hyper", "hyper-util", "tower", "tower-http"];
const HTTP_SERVICES: [&str; 2] = ["ingress", "simulator"];
/// The one service that knows the others and chooses the adapters.
const WIRING: &str = "broker";
/// For tests only; no part of the product may use it.
const FOR_TESTS: [&str; 3] = ["testkit", "tests", "bench"];

/// A dependency as a manifest names it.
#[derive(Debug, PartialEq, Eq)]
struct Dependency<'a> {
    name: &'a str,
    is_for_tests: bool,
}

fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.trim();
        } else if let Some(name) = line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()) {
            match section {
                "[dependencies]" => found.push(Dependency { name, is_for_tests: false }),
                "[dev-dependencies]" => found.push(Dependency { name, is_for_tests: true }),
                _ => {}
            }
        }
    }
    found
}

/// Every dependency in a wrong direction.
fn against_direction(tree: &Tree) -> Vec<String> {
    let services: BTreeSet<&str> = tree.services().collect();
    let is_ours = |name: &str| {
        COMMON.iter().any(|(known, _)| *known == name) || services.contains(name) || FOR_TESTS.contains(&name)
    };
    let mut findings = Vec::new();
    for (path, manifest) in tree.ending("Cargo.toml") {
        let parts: Vec<_> = path.split('/').collect();
        let allowed: &[&str] = match parts.as_slice() {
            ["common", name, "Cargo.toml"] => match COMMON.iter().find(|(known, _)| known == name) {
                Some((_, allowed)) => allowed,
                None => {
                    findings.push(format!("{path}: this crate stands in no layer; give it one in crates.rs"));
                    continue;
                }
            },
            // It speaks to the supervisors of its containers.
            ["services", "runner", "Cargo.toml"] => &["domain", "contract", "ports", "runtime", "supervisor"],
            ["services", _, "Cargo.toml"] => &FOUNDATION,
            // Its fake engine answers as a supervisor does.
            ["tests", "testkit", "Cargo.toml"] => &["domain", "contract", "ports", "runtime", "supervisor"],
            _ => continue,
        };
        let own = parts.get(1).copied().unwrap_or_default();
        for Dependency { name, is_for_tests } in dependencies(manifest) {
            let reason = match own {
                _ if is_for_tests && (name == "testkit" || !is_ours(name)) => continue,
                _ if FOR_TESTS.contains(&name) => "only tests use it",
                WIRING => continue,
                _ if name == "ops" && HTTP_SERVICES.contains(&own) => continue,
                _ if is_ours(name) && !allowed.contains(&name) && !is_for_tests => {
                    "not a layer below this one"
                }
                _ if services.contains(name) => "services never depend on each other",
                "domain" if !OF_DOMAIN.contains(&name) => "the domain has no I/O and no wire format",
                "ports" if !is_ours(name) && !OF_PORTS.contains(&name) => {
                    "a port knows no client of anything"
                }
                "contract" if !is_ours(name) && !OF_CONTRACT.contains(&name) => "the contract is types only",
                _ if HTTP_CRATES.contains(&name) && own != "ops" && !HTTP_SERVICES.contains(&own) => {
                    "this crate answers no HTTP"
                }
                _ => continue,
            };
            findings.push(format!("{path}: `{name}`: {reason}"));
        }
    }
    findings
}

/// Private parsers that are opened to the fuzz targets but used elsewhere.
fn uses_of_fuzz_support(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".rs") {
        let is_outside = !path.starts_with("fuzz/") && !path.starts_with("tests/architecture/");
        for (index, line) in text.lines().enumerate().filter(|_| is_outside) {
            let is_used =
                ["csp::fuzz_support", "dynamodb::fuzz_support"].iter().any(|module| line.contains(module));
            if is_used || (path.starts_with("common/") && line.contains("crate::fuzz_support")) {
                findings.push(format!("{path}:{}: `fuzz_support` is for the fuzz targets alone", index + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn manifests_follow_the_layers() {
        assert_none(&against_direction(&Tree::of_repository().unwrap()));
    }

    #[test]
    fn fuzz_support_is_used_only_by_fuzz_targets() {
        assert_none(&uses_of_fuzz_support(&Tree::of_repository().unwrap()));
    }

    fn with(path: &str, text: &str) -> Vec<String> {
        against_direction(&Tree::of(&[
            (
                "services/broker/Cargo.toml",
                "[dependencies]\nreaper.workspace = true\nnats.workspace = true\n",
            ),
            ("services/reaper/Cargo.toml", "[package]\nname = \"reaper\"\n"),
            (path, text),
        ]))
    }

    #[test]
    fn layer_depends_only_on_layers_below() {
        let domain = "common/domain/Cargo.toml";
        assert_none(&with(domain, "[dependencies]\ntime.workspace = true\n[lints]\nworkspace = true\n"));
        assert_one(&with(domain, "[dependencies]\nserde.workspace = true\n"), "`serde`");
        assert_one(&with(domain, "[dependencies]\ncontract.workspace = true\n"), "not a layer below");
        let ports = "common/ports/Cargo.toml";
        assert_none(&with(ports, "[dependencies]\ncontract.workspace = true\ntokio.workspace = true\n"));
        assert_one(&with(ports, "[dependencies]\nruntime.workspace = true\n"), "`runtime`");
        assert_one(&with(ports, "[dependencies]\nreqwest.workspace = true\n"), "no client");
        assert_one(
            &with("common/nats/Cargo.toml", "[dependencies]\ndynamodb.workspace = true\n"),
            "`dynamodb`",
        );
        assert_one(&with("common/drawer/Cargo.toml", ""), "stands in no layer");
    }

    #[test]
    fn service_depends_only_on_ports() {
        let ingress = "services/ingress/Cargo.toml";
        assert_none(&with(ingress, "[dependencies]\nports.workspace = true\naxum.workspace = true\n"));
        assert_none(&with(ingress, "[dependencies]\nops.workspace = true\n"));
        assert_one(&with(ingress, "[dependencies]\nnats.workspace = true\n"), "`nats`");
        assert_one(&with(ingress, "[dependencies]\nreaper = { path = \"../reaper\" }\n"), "`reaper`");
        assert_one(
            &with(ingress, "[dev-dependencies]\nreaper.workspace = true\n"),
            "never depend on each other",
        );
        assert_one(
            &with("services/allocator/Cargo.toml", "[dependencies]\naxum.workspace = true\n"),
            "no HTTP",
        );
    }

    #[test]
    fn fakes_are_used_only_by_tests() {
        let allocator = "services/allocator/Cargo.toml";
        assert_none(&with(allocator, "[dev-dependencies]\ntestkit.workspace = true\n"));
        assert_one(&with(allocator, "[dependencies]\ntestkit.workspace = true\n"), "only tests");
        let broker = "services/broker/Cargo.toml";
        assert_one(&with(broker, "[dependencies]\ntestkit.workspace = true\n"), "only tests");
    }

    #[test]
    fn use_of_fuzz_support_elsewhere_is_found() {
        let found =
            |path| uses_of_fuzz_support(&Tree::of(&[(path, "use dynamodb::fuzz_support::stored_item;")]));
        assert_none(&found("fuzz/src/answers.rs"));
        assert_one(&found("services/broker/src/up.rs"), "up.rs:1");
    }
}
