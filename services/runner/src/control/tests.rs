//! Generations and repeated reports.

use super::*;
use crate::tests::{Rig, run};
use contract::nodes::{NodePoolsReply, NodePoolsRequest};

fn pools(generation: u64) -> NodePoolsRequest {
    NodePoolsRequest { node: "a".to_owned(), generation }
}

#[test]
fn late_refusal_of_an_older_generation_ends_no_newer_one() {
    run(async {
        let rig = Rig::new().await;
        let gate = rig.control.hold(Verb::NodePools);
        let node = Arc::clone(&rig.node);
        let late =
            tokio::spawn(
                async move { node.control.report::<_, NodePoolsReply>(Verb::NodePools, &pools).await },
            );
        rig.pass(Duration::from_millis(100)).await;
        rig.control.end_generation();
        // Another report finds out first.
        let node = Arc::clone(&rig.node);
        let other =
            tokio::spawn(
                async move { node.control.report::<_, NodePoolsReply>(Verb::NodePools, &pools).await },
            );
        assert!(rig.pass_until(Duration::from_secs(5), || other.is_finished()).await);
        assert!(other.await.unwrap().is_ok());
        let current = rig.control.generation();
        gate.notify_one();
        rig.pass(Duration::from_secs(5)).await;
        assert_eq!(
            late.await.unwrap().unwrap().pools.len(),
            1,
            "it was repeated with the current generation"
        );
        assert_eq!(rig.control.generation(), current, "and nothing was registered again");
    });
}

#[test]
fn report_is_repeated_unless_that_cannot_help() {
    run(async {
        let rig = Rig::new().await;
        let before = rig.control.reports(Verb::NodePools).len();
        for code in [FaultCode::StoreThrottled, FaultCode::InternalError] {
            rig.control.refuse(Verb::NodePools, code);
        }
        let node = Arc::clone(&rig.node);
        let asked =
            tokio::spawn(
                async move { node.control.insist::<_, NodePoolsReply>(Verb::NodePools, &pools).await },
            );
        assert!(rig.pass_until(Duration::from_secs(10), || asked.is_finished()).await);
        assert!(asked.await.unwrap().is_ok());
        assert_eq!(rig.control.reports(Verb::NodePools).len(), before + 3);
        rig.control.refuse(Verb::NodePools, FaultCode::Forbidden);
        let refused = rig.node.control.insist::<_, NodePoolsReply>(Verb::NodePools, &pools).await;
        assert!(matches!(refused, Err(ReportError::Refused { code: FaultCode::Forbidden, .. })));
    });
}

#[test]
fn wait_for_an_answer_ends_in_time() {
    run(async {
        let rig = Rig::new().await;
        rig.control.set_down(true);
        let span = Duration::from_secs(60);
        let node = Arc::clone(&rig.node);
        let asked = tokio::spawn(async move {
            node.control.insist_within::<_, NodePoolsReply>(span, Verb::NodePools, &pools).await
        });
        rig.pass(span - Duration::from_secs(1)).await;
        assert!(!asked.is_finished());
        rig.pass(Duration::from_secs(2)).await;
        assert!(asked.await.unwrap().is_none(), "without an answer");
    });
}
