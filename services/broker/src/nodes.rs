//! `broker nodes`: shows nodes, takes them out of use and puts them back, over NATS.

use crate::deletions::client::Client;
use crate::output::{Format, Shown, Watch, columns, moment, or_none};
use clap::Subcommand;
use contract::Verb;
use contract::nodes::{
    DRAIN_SECONDS_MAX, NodeLoad, NodeOrder, NodeRequest, NodeView, NodesReply, NodesRequest,
};
use domain::NodeId;
use runtime::settings::Env;

/// The actor if the command names none.
const BY: &str = "broker-cli";
/// Entries of a page; the commands read all pages.
const PAGE_LIMIT: u32 = contract::queue::PAGE_LIMIT_MAX;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Nodes,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Nodes {
    /// List every node with its state, what it offers and what of it is in use.
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Print one node.
    Show {
        /// The node.
        #[arg(value_parser = NodeId::parse)]
        node: NodeId,
    },
    /// Let a node take no more work. Its free sandboxes are given up; leases run to their ends, or to a time.
    Drain {
        /// The node.
        #[arg(value_parser = NodeId::parse)]
        node: NodeId,
        /// End the leases that are left after this time.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=DRAIN_SECONDS_MAX))]
        leases_end_in_seconds: Option<u64>,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
    /// Put a drained node back into use.
    Activate {
        /// The node.
        #[arg(value_parser = NodeId::parse)]
        node: NodeId,
        /// The operator; for the log.
        #[arg(long, default_value = BY)]
        by: String,
    },
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// When a setting is invalid, no worker answers, or the reply is a failure.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let client = Client::connect(env).await?;
        let said = match self.command {
            Nodes::List { watch } => watch.show(self.format, async || list(&client).await).await,
            command => command.say(&client).await.map(|shown| self.format.print(&shown)),
        };
        client.close().await;
        said
    }
}

// === impl Nodes ===

impl Nodes {
    async fn say(self, client: &Client) -> anyhow::Result<Shown> {
        let (verb, node, leases_end_in_seconds, by) = match self {
            Self::List { .. } => return list(client).await,
            Self::Show { node } => {
                let request = NodeRequest { node: node.to_string() };
                return Ok(Shown::fields(&client.ask::<NodeView>(Verb::Node, &request).await?)?);
            }
            Self::Drain { node, leases_end_in_seconds, by } => {
                (Verb::DrainNode, node, leases_end_in_seconds, by)
            }
            Self::Activate { node, by } => (Verb::ActivateNode, node, None, by),
        };
        let order = NodeOrder { node: node.to_string(), leases_end_in_seconds, by: Some(by) };
        let view: NodeView = client.ask(verb, &order).await?;
        let held = view.load.as_ref().map_or_else(String::new, |load| {
            format!("; {} sandboxes, {} of them leased", load.sandboxes, load.leased)
        });
        let line = format!("{}: {}{held}", view.node, view.status);
        Ok(Shown::of(&view, line)?)
    }
}

async fn list(client: &Client) -> anyhow::Result<Shown> {
    let (mut nodes, mut cursor) = (Vec::new(), None);
    loop {
        let request = NodesRequest { cursor, limit: Some(PAGE_LIMIT) };
        let page: NodesReply = client.ask(Verb::Nodes, &request).await?;
        nodes.extend(page.nodes);
        cursor = page.cursor;
        if cursor.is_none() {
            let reply = NodesReply { nodes, cursor: None };
            return Ok(Shown::of(&reply, table(&reply))?);
        }
    }
}

/// The nodes, one in a line.
fn table(reply: &NodesReply) -> String {
    let headers = [
        "NODE",
        "STATE",
        "ENGINE",
        "SANDBOXES",
        "LEASED",
        "CPU",
        "MEMORY",
        "VERSION",
        "REGISTERED",
        "LEASES END",
    ];
    columns(headers, reply.nodes.iter().map(row))
}

fn row(view: &NodeView) -> [String; 10] {
    let load = view.load.as_ref();
    let part = |of: fn(&NodeLoad) -> (u64, u64), unit: &str| {
        or_none(load.map(of).map(|(used, most)| format!("{used}/{most}{unit}")))
    };
    [
        view.node.clone(),
        view.status.to_string(),
        view.engine.clone(),
        part(|load| (load.sandboxes, load.sandboxes_max), ""),
        or_none(load.map(|load| load.leased.to_string())),
        part(|load| (load.cpu_milli, load.cpu_milli_max), "m"),
        part(|load| (load.memory_mb, load.memory_mb_max), "M"),
        view.version.clone(),
        moment(Some(view.registered_at)),
        moment(view.leases_end_at),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::nodes::NodeStatus;

    #[test]
    fn nodes_are_shown_in_aligned_columns() {
        let of = |node: &str, status: NodeStatus, load| NodeView {
            node: node.to_owned(),
            status: status.into(),
            engine: "namespaces".to_owned(),
            load,
            ..NodeView::default()
        };
        let load = NodeLoad { sandboxes: 3, sandboxes_max: 8, leased: 1, ..NodeLoad::default() };
        let nodes = vec![of("node-1", NodeStatus::Active, Some(load)), of("b", NodeStatus::Silent, None)];
        let text = table(&NodesReply { nodes, cursor: None });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].find("namespaces"), lines[2].find("namespaces"));
        assert!(lines[1].contains("3/8") && lines[2].contains("silent  namespaces  -"), "{text}");
    }
}
