//! The message of `broker up` when the fleet is ready.

use super::{ADMIN_TOKEN_FILE, API_TOKEN_FILE};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The addresses and files that a user needs.
pub(super) struct Welcome {
    pub(super) root: String,
    pub(super) nats_url: String,
    /// Address of the embedded table (`DYNAMODB_ENDPOINT`), if it is embedded.
    pub(super) table: Option<String>,
    pub(super) simulator: Option<SocketAddr>,
    pub(super) data: PathBuf,
    /// The variable that names a list of tokens; none if the tokens are those of the data directory.
    pub(super) token_list: Option<&'static str>,
}

// === impl Welcome ===

impl Welcome {
    /// Prints the message to stdout; log lines go to stderr.
    pub(super) fn print(&self) {
        println!("{}", self.text());
    }

    fn text(&self) -> String {
        let Self { root, nats_url, table, simulator, data, token_list } = self;
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
        format!(
            "\nThe fleet is ready.\n\n  \
             http         {root}\n  \
             nats         {nats_url}\n\
             {table}\
             {simulator}\n  \
             data         {data}\n\
             {tokens}\n\n\
             Try it:\n\n  \
             curl -sX POST {root}/v1/allocate -H \"Authorization: Bearer {lab}\" -H 'X-Instruqt-Sandbox-ID: student-1'\n  \
             curl -sX POST {root}/v1/sandboxes/SANDBOX_ID/mark-for-deletion -H \"Authorization: Bearer {lab}\" -H 'X-Instruqt-Sandbox-ID: student-1'\n  \
             curl -s {root}/v1/admin/stats -H \"Authorization: Bearer {admin}\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_shows_addresses_token_files_and_examples() {
        let text = Welcome {
            root: "https://127.0.0.1:8080".to_owned(),
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            table: Some("http://127.0.0.1:8000".to_owned()),
            simulator: Some(SocketAddr::from(([127, 0, 0, 1], 8090))),
            data: PathBuf::from(".broker"),
            token_list: None,
        }
        .text();
        for part in [
            "https://127.0.0.1:8080",
            "nats://127.0.0.1:4222",
            "\n  table        http://127.0.0.1:8000\n  simulator",
            ".broker/api-token",
            ".broker/admin-token",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert_eq!(text.matches("curl -s").count(), 3);
    }
}
