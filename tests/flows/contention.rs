//! Crowds: every caller that can be served is served, and no two callers get the same sandbox.

use harness::http::Answer;
use harness::rig::{Plan, Rig};
use std::collections::HashSet;

/// `count` callers at the same moment.
async fn crowd(rig: &Rig, count: usize, round: &str) -> Vec<Answer> {
    let callers: Vec<_> = (0..count)
        .map(|number| {
            let api = rig.api.clone();
            let owner = format!("{round}-{number}");
            tokio::spawn(async move { api.allocate(&owner).await })
        })
        .collect();
    let mut answers = Vec::with_capacity(count);
    for caller in callers {
        answers.push(caller.await.unwrap());
    }
    answers
}

fn winners(answers: &[Answer]) -> HashSet<&str> {
    let won: Vec<&str> = answers.iter().filter(|one| one.status == 201).map(Answer::sandbox).collect();
    let distinct: HashSet<&str> = won.iter().copied().collect();
    assert_eq!(won.len(), distinct.len(), "no sandbox has two holders");
    distinct
}

/// A fleet whose callers may wait long: the test is about every caller being served, not about speed.
fn patient(accounts: usize) -> Plan {
    Plan::new(accounts).set("REQUEST_DEADLINE_MS", 60_000).set("REQUEST_ATTEMPT_MS", 30_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_then_eight_hundred_callers_on_a_thousand_free() {
    let rig = patient(1_000).start().await;
    let first = crowd(&rig, 200, "first").await;
    assert!(first.iter().all(|one| one.status == 201), "{:?}", first.iter().find(|one| one.status != 201));
    let early: HashSet<String> = winners(&first).into_iter().map(ToOwned::to_owned).collect();
    let second = crowd(&rig, 800, "second").await;
    assert!(second.iter().all(|one| one.status == 201), "{:?}", second.iter().find(|one| one.status != 201));
    assert!(winners(&second).iter().all(|id| !early.contains(*id)), "no caller gets what was taken before");
    assert_eq!(rig.api.stats().await["allocated"], 1_000);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_on_a_thousand_free() {
    let rig = patient(1_000).start().await;
    let answers = crowd(&rig, 1_000, "student").await;
    assert!(
        answers.iter().all(|one| one.status == 201),
        "{:?}",
        answers.iter().find(|one| one.status != 201)
    );
    assert_eq!(winners(&answers).len(), 1_000);
    // Every caller that asks again gets the same answer.
    let again = crowd(&rig, 1_000, "student").await;
    for (first, second) in answers.iter().zip(&again) {
        assert_eq!((second.status, &second.body), (200, &first.body));
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_callers_on_nine_hundred_free() {
    let rig = patient(900).start().await;
    let answers = crowd(&rig, 1_000, "student").await;
    assert_eq!(winners(&answers).len(), 900);
    let refused: Vec<&Answer> = answers.iter().filter(|one| one.status != 201).collect();
    assert_eq!(refused.len(), 100);
    assert!(
        refused.iter().all(|one| (one.status, one.code()) == (409, "POOL_EXHAUSTED")),
        "{:?}",
        refused.first()
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_attempts_with_one_key_get_one_lease() {
    let rig = patient(100).start().await;
    let tries: Vec<_> = (0..64)
        .map(|_| {
            let api = rig.api.clone();
            tokio::spawn(async move { api.allocate("student-1").await })
        })
        .collect();
    let mut sandboxes = HashSet::new();
    let mut created = 0;
    for one in tries {
        let answer = one.await.unwrap();
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        created += usize::from(answer.status == 201);
        sandboxes.insert(answer.body.to_string());
    }
    assert_eq!((created, sandboxes.len()), (1, 1), "one lease, and all callers get the same answer");
    assert_eq!(rig.api.stats().await["allocated"], 1, "nothing is stranded");
    rig.stop().await;
}
