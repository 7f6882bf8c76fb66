//! Runs the recipes of `nats/README.md` one after the other as an operator would, with the real client on a real fleet.
//!
//! A recipe is a `sh` block below a comment `<!-- run: shows TEXT -->`: it must exit with success and print that text.
//! Between some of them the test changes the fleet's state, as time does for an operator.

use crate::markdown::{Block, Document};
use contract::Verb;
use harness::nats_cli::NatsCli;
use harness::rig::{Plan, Rig};
use harness::wait::{TIMEOUT, eventually};
use serde_json::{Value, json};
use simulator::{Fault, FaultKind, Operation};

const README: &str = "nats/README.md";
/// The sandbox in the document's examples.
const SANDBOX: &str = "2000000";
/// The unreadable message in the document's examples.
const UNREADABLE: &str = "_unreadable.7";

/// One run through the document.
struct Walk {
    rig: Rig,
    cli: NatsCli,
    /// The claimed sandbox that replaces the document's one.
    claimed: Option<String>,
    /// The unreadable message that replaces the document's one.
    unreadable: String,
}

impl Walk {
    /// A command of the document, changed for this test's fleet.
    fn for_this_fleet(&self, text: &str) -> String {
        let prefix = self.rig.bus.subjects().prefix();
        let mut text = text.replace("sandbox.", &format!("{prefix}."));
        for stream in ["DELETIONS", "PROVISIONS", "PARKED", "TICKS", "EVENTS"] {
            text = text.replace(stream, &format!("{stream}-{prefix}"));
        }
        text = text.replace(" broker ", &format!(" broker-{prefix} "));
        text = text.replace(UNREADABLE, &self.unreadable);
        text.replace(SANDBOX, self.claimed.as_deref().unwrap_or(SANDBOX))
    }

    async fn run(&mut self, recipe: &Block) {
        let place = format!("{README}:{}", recipe.line);
        let comment =
            recipe.comment.as_deref().unwrap_or_else(|| panic!("{place}: a recipe that is not run"));
        let shows = comment.strip_prefix("run: shows ").unwrap_or_else(|| panic!("{place}: {comment:?}"));
        let output = self.cli.run(&self.for_this_fleet(&recipe.code)).await;
        let (said, noted) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{place}: {}\n{}\n{said}{noted}", output.status, recipe.code);
        let shows = self.for_this_fleet(shows);
        let is_shown = said.contains(&shows) || noted.contains(&shows);
        assert!(is_shown, "{place}: does not show {shows:?}\n{}\n{said}{noted}", recipe.code);
        if self.claimed.is_none() {
            let claim = said.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
            self.claimed = Some(claim.unwrap()["sandbox_id"].as_str().unwrap().to_owned());
        }
    }

    /// The replayed deletion fails, its retry is scheduled, an operator retries it at once, and it is parked.
    async fn let_it_fail_twice(&self) {
        eventually("the first attempt to fail", TIMEOUT, || async {
            match self.rig.retries_scheduled().await {
                1 => Ok(()),
                other => Err(other),
            }
        })
        .await;
        self.rig.purge_deletions().await;
        self.rig.sweep().await;
        eventually("the second attempt to fail", TIMEOUT, || async {
            match self.rig.parked_count().await {
                1 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }

    /// Establishes the state that the recipes below a heading assume.
    async fn come_to(&mut self, heading: &str) {
        match heading {
            "The deletion queue" => {
                eventually("the announcement", TIMEOUT, || async {
                    match self.rig.queued().await {
                        1 => Ok(()),
                        other => Err(other),
                    }
                })
                .await;
            }
            // The recipes before this one have resumed deletions.
            "Scheduled retries of deletions" => {
                eventually("the first attempt to fail", TIMEOUT, || async {
                    match self.rig.retries_scheduled().await {
                        1 => Ok(()),
                        other => Err(other),
                    }
                })
                .await;
            }
            "Parked deletions" => {
                eventually("the second attempt to fail", TIMEOUT, || async {
                    match self.rig.parked_count().await {
                        1 => Ok(()),
                        other => Err(other),
                    }
                })
                .await;
                assert_eq!(self.rig.deletes_at_csp(), 2, "the sweep has announced it once");
            }
            "Replay all parked deletions" => {
                assert_eq!(self.rig.parked_count().await, 0, "the replay takes the copy away");
                self.let_it_fail_twice().await;
            }
            "Messages that no worker can read" => {
                self.rig.publish_raw_deletion("main", "77", "this is no deletion").await;
                let parked = eventually("a parked message", TIMEOUT, || async {
                    let reply = self.rig.ask(Verb::Parked, json!({"reason": "no deletion work"})).await;
                    let reply: Value = serde_json::from_slice(&reply.expect("an answer").body).unwrap();
                    if reply["count"] == 1 { Ok(reply) } else { Err(reply) }
                })
                .await;
                self.unreadable = parked["parked"][0]["key"].as_str().unwrap().to_owned();
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_recipe_works() {
    let document = Document::read(README);
    let recipes = document.blocks("sh");
    assert!(recipes.len() >= 20, "only {} recipes", recipes.len());
    // Skips the test if there is no client on this machine.
    let url = harness::servers::shared().await.nats_url.clone();
    let Some(cli) = NatsCli::new(&url) else { return };
    let rig = Plan::new(6)
        .set("DELETION_ATTEMPTS_MAX", 2)
        .set("DELETION_RETRY_SECONDS_MIN", 600)
        .set("DELETION_RETRY_SECONDS_MAX", 600)
        // The recipes watch these reports.
        .set("EXPIRY_INTERVAL_SECONDS", 1)
        .start()
        .await;
    let broken = FaultKind::status(500);
    rig.csp.fail(Operation::Delete, Fault::always(broken)).unwrap();
    // The recipe reads a queue that is not empty.
    rig.pause_deletions().await;
    let mut walk = Walk { rig, cli, claimed: None, unreadable: UNREADABLE.to_owned() };
    let mut heading = String::new();
    for recipe in &recipes {
        if recipe.heading != heading {
            heading = recipe.heading.clone();
            walk.come_to(&heading).await;
        }
        walk.run(recipe).await;
    }
    assert_eq!(walk.rig.parked_count().await, 0, "the last recipe about parked ones removes it");
    walk.rig.stop().await;
}
