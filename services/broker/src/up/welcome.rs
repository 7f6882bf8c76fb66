//! The message of `broker up` when the fleet is ready.

use super::containers::{Containers, POOL};
use super::{ADMIN_TOKEN_FILE, API_TOKEN_FILE};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The addresses and files that a user needs.
pub(super) struct Welcome {
    pub(super) root: String,
    pub(super) nats_url: String,
    /// The subject of claims on NATS.
    pub(super) claim_subject: String,
    /// Address of the embedded table (`DYNAMODB_ENDPOINT`), if it is embedded.
    pub(super) table: Option<String>,
    pub(super) simulator: Option<SocketAddr>,
    pub(super) data: PathBuf,
    /// Whether the data directory is removed at the end.
    pub(super) ephemeral: bool,
    /// The variable that names a list of tokens; none if the tokens are those of the data directory.
    pub(super) token_list: Option<&'static str>,
    /// Whether there are containers.
    pub(super) containers: Containers,
}

// === impl Welcome ===

impl Welcome {
    /// Prints the message to stdout; log lines go to stderr.
    pub(super) fn print(&self) {
        println!("{}", self.text());
    }

    fn text(&self) -> String {
        let Self { root, nats_url, claim_subject, table, simulator, data, ephemeral, token_list, containers } =
            self;
        let data = data.display();
        let tokens = token_list.map_or_else(
            || format!("  lab token    {data}/{API_TOKEN_FILE}\n  admin token  {data}/{ADMIN_TOKEN_FILE}"),
            |variable| format!("  tokens       of {variable}"),
        );
        let [lab, admin] = [API_TOKEN_FILE, ADMIN_TOKEN_FILE]
            .map(|file| token_list.map_or_else(|| format!("$(cat {data}/{file})"), |_| "$TOKEN".to_owned()));
        let simulator = simulator.map_or_else(
            || "  provider     a real one (--csp-url)".to_owned(),
            |address| format!("  simulator    http://{address}/v2"),
        );
        let table = table.as_ref().map(|table| format!("  table        {table}\n")).unwrap_or_default();
        let (nodes, container) = match containers {
            Containers::Off => (String::new(), String::new()),
            Containers::Unavailable(reason) => (format!("  containers   none: {reason}\n"), String::new()),
            Containers::On { nodes, has_docker } => {
                let docker = if *has_docker {
                    "  docker       a node for templates with isolation container\n"
                } else {
                    ""
                };
                match nodes {
                    0 => (docker.to_owned(), String::new()),
                    nodes => (
                        format!("  nodes        {nodes}, with a pool of containers: {POOL}\n{docker}"),
                        format!(
                            "curl -sX POST {root}/v1/allocate -H \"Authorization: Bearer {lab}\" -H 'X-Instruqt-Sandbox-ID: student-2' -H 'X-Sandbox-Pool: {POOL}'\n  "
                        ),
                    ),
                }
            }
        };
        let state = if *ephemeral { "deletes its state" } else { "keeps its state for the next start" };
        format!(
            "\nThe fleet is ready.\n\n  \
             http         {root}\n  \
             console      {root}/console\n  \
             docs         {root}/v1/docs\n  \
             nats         {nats_url}\n\
             {table}\
             {simulator}\n  \
             data         {data}\n\
             {nodes}\
             {tokens}\n\n\
             Try it:\n\n  \
             curl -sX POST {root}/v1/allocate -H \"Authorization: Bearer {lab}\" -H 'X-Instruqt-Sandbox-ID: student-1'\n  \
             nats req --server {nats_url} {claim_subject} '{{\"owner\":\"student-1\"}}'\n  \
             {container}curl -s {root}/v1/admin/stats -H \"Authorization: Bearer {admin}\"\n\n\
             `make install` puts `broker` and `nats` on the PATH. Ctrl-C stops the fleet and {state}.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome() -> Welcome {
        Welcome {
            root: "https://127.0.0.1:8080".to_owned(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            claim_subject: "blue.v1.allocate".to_owned(),
            table: Some("http://127.0.0.1:8000".to_owned()),
            simulator: Some(SocketAddr::from(([127, 0, 0, 1], 8090))),
            data: PathBuf::from(".broker"),
            ephemeral: false,
            token_list: None,
            containers: Containers::Off,
        }
    }

    #[test]
    fn welcome_shows_addresses_token_files_and_examples() {
        let text = welcome().text();
        for part in [
            "\n  http         https://127.0.0.1:8080\n",
            "\n  console      https://127.0.0.1:8080/console\n",
            "\n  docs         https://127.0.0.1:8080/v1/docs\n",
            "\n  nats         nats://127.0.0.1:4222\n",
            "\n  table        http://127.0.0.1:8000\n  simulator",
            ".broker/api-token",
            ".broker/admin-token",
            "\n  nats req --server nats://127.0.0.1:4222 blue.v1.allocate '{\"owner\":\"student-1\"}'\n",
            "Ctrl-C stops the fleet and keeps its state",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(text.matches("curl -s").count(), 2);
    }

    #[test]
    fn welcome_says_whether_there_are_containers() {
        let text = |containers| Welcome { containers, ..welcome() }.text();
        let on = text(Containers::On { nodes: 2, has_docker: false });
        assert!(on.contains("\n  nodes        2, with a pool of containers: shell\n"), "{on}");
        assert!(on.contains("-H 'X-Sandbox-Pool: shell'\n  curl -s https"), "{on}");
        let docker = text(Containers::On { nodes: 0, has_docker: true });
        assert!(
            docker.contains("\n  docker       a node") && !docker.contains("pool of containers"),
            "{docker}"
        );
        let none = text(Containers::Unavailable("no bwrap".to_owned()));
        assert!(none.contains("\n  containers   none: no bwrap\n"), "{none}");
        assert!(!text(Containers::Off).contains("containers"));
    }

    #[test]
    fn ephemeral_fleet_says_that_its_state_is_deleted() {
        let text = Welcome { ephemeral: true, ..welcome() }.text();
        assert!(text.contains("Ctrl-C stops the fleet and deletes its state"), "{text}");
    }
}
