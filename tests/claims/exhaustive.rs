//! Every interleaving of a small model of the claim protocol: attempts at two requests of one key, a rival, releases,
//! and sandboxes that go missing and are found again. Any attempt may stop at any call.
//!
//! The model is written independently of the code that it describes, so that both do not have the same mistake. Each
//! rule of the protocol is switched off once: without it, the search must find the fault that the rule prevents.

use crate::search::{Sights, assert_finds, search};
use std::collections::HashMap;

/// Requests as a bit set.
type Requests = u8;
/// Number of a sandbox.
type Id = u8;
/// The version of a sandbox: how often it was free or missing.
type Version = u8;

/// Maximum of sandboxes.
const SANDBOXES_MAX: usize = 3;
/// Maximum of attempts.
const ATTEMPTS_MAX: usize = 4;

/// The rules of the protocol.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// The end of a lease closes the claim item and does not remove it.
    items_are_closed: bool,
    /// A claim that finds an ended lease of its key reads the requests that the lease answered.
    ended_leases_are_looked_at: bool,
    /// A claim item that moves to another sandbox keeps the answered requests.
    requests_are_kept: bool,
    /// A repeat other than the first attempt is recorded on the lease before it is answered.
    repeats_are_noted: bool,
    /// A sandbox is granted only at the version that the claim item names.
    versions_are_compared: bool,
}

const ALL_RULES: Rules = Rules {
    items_are_closed: true,
    ended_leases_are_looked_at: true,
    requests_are_kept: true,
    repeats_are_noted: true,
    versions_are_compared: true,
};

/// The participants.
#[derive(Clone, Copy, Debug)]
struct Cast {
    /// Each attempt as the number of its request and its number within that request.
    attempts: &'static [(usize, u8)],
    sandboxes: usize,
    /// The number of sandboxes that another key may take.
    rivals: u8,
    /// How often a free sandbox may go missing and be found again.
    absences: u8,
}

/// Two attempts at a request, and a later request.
const THREE: Cast = Cast { attempts: &[(0, 1), (0, 2), (1, 1)], sandboxes: 3, rivals: 1, absences: 1 };
/// Two attempts at each of two requests.
const FOUR: Cast = Cast { attempts: &[(0, 1), (0, 2), (1, 1), (1, 2)], sandboxes: 2, rivals: 0, absences: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sandbox {
    Absent,
    Free(Version),
    /// Not listed by the provider.
    Missing(Version),
    /// Held by the key.
    Held {
        claimed: Version,
        requests: Requests,
    },
    /// Held by the key before.
    Ended {
        claimed: Version,
        requests: Requests,
    },
    Rivals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Item {
    id: Id,
    version: Version,
    is_closed: bool,
    answered: Requests,
}

/// The next step of an attempt, with what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Unsent,
    Looking,
    Opening(Item),
    Granting(Item),
    Noting { item: Item, seen: Requests },
    Leaving { from: Item, ended: Requests },
    Moving { from: Item, to: Item },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    sandboxes: [Sandbox; SANDBOXES_MAX],
    item: Option<Item>,
    attempts: [At; ATTEMPTS_MAX],
    /// Sandboxes whose release has not closed the claim item yet.
    closing: u8,
    /// Requests whose caller has received an answer.
    answered: Requests,
    rivals: u8,
    absences: u8,
}

/// The violations that the search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The key holds two sandboxes.
    TwoHeld,
    /// A late attempt at an answered request takes a sandbox.
    LateAttempt,
}

/// Events that must occur, or the model proves little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sight {
    RefusedByItem,
    RefusedByLease,
    ClosedItemReplaced,
    RepeatAnswered,
    OwnLeaseFound,
    Exhausted,
}

struct Model {
    rules: Rules,
    cast: Cast,
}

fn bit(request: usize) -> Requests {
    1 << request
}

// === impl State ===

impl State {
    fn first(cast: Cast) -> Self {
        let mut sandboxes = [Sandbox::Absent; SANDBOXES_MAX];
        sandboxes[..cast.sandboxes].fill(Sandbox::Free(1));
        Self {
            sandboxes,
            item: None,
            attempts: [At::Unsent; ATTEMPTS_MAX],
            closing: 0,
            answered: 0,
            rivals: cast.rivals,
            absences: cast.absences,
        }
    }

    fn with(mut self, attempt: usize, at: At) -> Self {
        self.attempts[attempt] = at;
        self
    }

    /// Claim items for the sandboxes that are free now.
    fn candidates(&self) -> Vec<Item> {
        let free = self.sandboxes.iter().enumerate().filter_map(|(id, sandbox)| match sandbox {
            Sandbox::Free(version) => {
                Some(Item { id: id as Id, version: *version, is_closed: false, answered: 0 })
            }
            _ => None,
        });
        free.collect()
    }
}

// === impl Model ===

impl crate::search::Model for Model {
    type State = State;
    type Fault = Fault;
    type Sight = Sight;

    fn first(&self) -> State {
        State::first(self.cast)
    }

    fn fault(state: &State) -> Option<Fault> {
        let held = state.sandboxes.iter().filter(|sandbox| matches!(sandbox, Sandbox::Held { .. }));
        (held.count() > 1).then_some(Fault::TwoHeld)
    }

    fn next(&self, state: &State, sights: &mut Sights<Sight>) -> Result<Vec<State>, Fault> {
        let mut next = Vec::new();
        for attempt in 0..self.cast.attempts.len() {
            self.step(state, attempt, sights, &mut next)?;
        }
        for (id, sandbox) in state.sandboxes.iter().enumerate() {
            let mut after = *state;
            match *sandbox {
                // Its owner, its expiry or an operator ends the lease.
                Sandbox::Held { claimed, requests } => {
                    after.sandboxes[id] = Sandbox::Ended { claimed, requests };
                    after.closing |= 1 << id;
                    next.push(after);
                }
                Sandbox::Free(version) => {
                    if state.rivals > 0 {
                        after.sandboxes[id] = Sandbox::Rivals;
                        after.rivals -= 1;
                        next.push(after);
                    }
                    if state.absences > 0 {
                        after = *state;
                        after.sandboxes[id] = Sandbox::Missing(version + 1);
                        after.absences -= 1;
                        next.push(after);
                    }
                }
                Sandbox::Missing(version) => {
                    after.sandboxes[id] = Sandbox::Free(version + 1);
                    next.push(after);
                }
                Sandbox::Ended { claimed, requests } if state.closing & (1 << id) != 0 => {
                    after.closing &= !(1 << id);
                    after.item = self.after_close(state.item, id as Id, claimed, requests);
                    next.push(after);
                }
                _ => {}
            }
        }
        Ok(next)
    }
}

impl Model {
    fn after_close(&self, item: Option<Item>, id: Id, claimed: Version, requests: Requests) -> Option<Item> {
        let item = item?;
        if (item.id, item.version) != (id, claimed) {
            return Some(item);
        }
        self.rules.items_are_closed.then_some(Item {
            is_closed: true,
            answered: item.answered | requests,
            ..item
        })
    }

    fn step(
        &self,
        state: &State,
        attempt: usize,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) -> Result<(), Fault> {
        let (request, number) = self.cast.attempts[attempt];
        let go = |at| state.with(attempt, at);
        match state.attempts[attempt] {
            At::Unsent => {
                // The ingress sends the next attempt after it has given up the previous one.
                let is_due = number == 1 || state.attempts[attempt - 1] != At::Unsent;
                if is_due && state.answered & bit(request) == 0 {
                    next.push(go(At::Looking));
                }
            }
            At::Looking => {
                let candidates = state.candidates();
                next.extend(candidates.iter().map(|candidate| go(At::Opening(*candidate))));
                if candidates.is_empty() {
                    next.push(go(self.follow(state.item, None, request, sights)));
                }
            }
            At::Opening(wanted) => match state.item {
                Some(held) => next.push(go(self.go_on(held, request, sights))),
                None => next.push(State { item: Some(wanted), ..go(At::Granting(wanted)) }),
            },
            At::Granting(item) => self.grant(state, attempt, item, sights, next)?,
            At::Noting { item, seen } => match state.sandboxes[item.id as usize] {
                Sandbox::Held { claimed, requests } if requests == seen => {
                    let mut noted = *state;
                    noted.sandboxes[item.id as usize] =
                        Sandbox::Held { claimed, requests: requests | bit(request) };
                    self.answer(&noted, attempt, next);
                }
                _ => self.look(state, attempt, item, sights, next),
            },
            At::Leaving { from, ended } => {
                let candidates = state.candidates();
                let answered = if self.rules.requests_are_kept { from.answered | ended } else { 0 };
                next.extend(
                    candidates.iter().map(|to| go(At::Moving { from, to: Item { answered, ..*to } })),
                );
                if candidates.is_empty() {
                    next.push(go(self.follow(state.item, Some(from), request, sights)));
                }
            }
            At::Moving { from, to } => match state.item {
                Some(item) if item == from => {
                    if from.is_closed {
                        sights.saw(Sight::ClosedItemReplaced);
                    }
                    next.push(State { item: Some(to), ..go(At::Granting(to)) });
                }
                Some(item) => next.push(go(self.go_on(item, request, sights))),
                None => next.push(go(At::Looking)),
            },
            At::Over => {}
        }
        Ok(())
    }

    /// Nothing is free: the claim item may still lead to an answer.
    fn follow(
        &self,
        item: Option<Item>,
        lost: Option<Item>,
        request: usize,
        sights: &mut Sights<Sight>,
    ) -> At {
        match item {
            Some(item) if Some(item) != lost => self.go_on(item, request, sights),
            _ => {
                sights.saw(Sight::Exhausted);
                At::Over
            }
        }
    }

    /// Continues with the existing claim item.
    fn go_on(&self, item: Item, request: usize, sights: &mut Sights<Sight>) -> At {
        if item.answered & bit(request) != 0 {
            sights.saw(Sight::RefusedByItem);
            return At::Over;
        }
        if item.is_closed { At::Leaving { from: item, ended: 0 } } else { At::Granting(item) }
    }

    fn grant(
        &self,
        state: &State,
        attempt: usize,
        item: Item,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) -> Result<(), Fault> {
        let (request, _) = self.cast.attempts[attempt];
        match state.sandboxes[item.id as usize] {
            Sandbox::Free(version) if version == item.version || !self.rules.versions_are_compared => {
                if state.answered & bit(request) != 0 {
                    return Err(Fault::LateAttempt);
                }
                let mut granted = *state;
                granted.sandboxes[item.id as usize] =
                    Sandbox::Held { claimed: item.version, requests: bit(request) };
                self.answer(&granted, attempt, next);
            }
            _ => self.look(state, attempt, item, sights, next),
        }
        Ok(())
    }

    /// The step after a claim finds its sandbox not free.
    fn look(
        &self,
        state: &State,
        attempt: usize,
        item: Item,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) {
        let (request, number) = self.cast.attempts[attempt];
        let ended = match state.sandboxes[item.id as usize] {
            Sandbox::Held { requests, .. } => {
                let is_known = requests & bit(request) != 0;
                sights.saw(if is_known { Sight::OwnLeaseFound } else { Sight::RepeatAnswered });
                if is_known || number == 1 || !self.rules.repeats_are_noted {
                    self.answer(state, attempt, next);
                } else {
                    next.push(state.with(attempt, At::Noting { item, seen: requests }));
                }
                return;
            }
            Sandbox::Ended { requests, .. } if self.rules.ended_leases_are_looked_at => requests,
            _ => 0,
        };
        if ended & bit(request) != 0 {
            sights.saw(Sight::RefusedByLease);
            next.push(state.with(attempt, At::Over));
        } else {
            next.push(state.with(attempt, At::Leaving { from: item, ended }));
        }
    }

    /// The attempt has an answer. It reaches the caller if the caller has sent no further attempt, or is lost on the
    /// way.
    fn answer(&self, state: &State, attempt: usize, next: &mut Vec<State>) {
        let (request, number) = self.cast.attempts[attempt];
        let later = self.cast.attempts.iter().position(|at| *at == (request, number + 1));
        let lost = state.with(attempt, At::Over);
        next.push(lost);
        if later.is_none_or(|later| state.attempts[later] == At::Unsent) {
            next.push(State { answered: state.answered | bit(request), ..lost });
        }
    }
}

#[test]
fn no_key_holds_two_leases_and_no_late_attempt_wins() {
    let mut sights = HashMap::new();
    for cast in [THREE, FOUR] {
        let found = search(&Model { rules: ALL_RULES, cast });
        println!("{cast:?}: {} states, {:?}", found.states, found.sights);
        assert!(found.fault.is_none(), "{:#?}", found.fault);
        sights.extend(found.sights.0);
    }
    for sight in [
        Sight::RefusedByItem,
        Sight::RefusedByLease,
        Sight::ClosedItemReplaced,
        Sight::RepeatAnswered,
        Sight::OwnLeaseFound,
        Sight::Exhausted,
    ] {
        assert!(sights.contains_key(&sight), "{sight:?} never came up");
    }
}

#[test]
fn without_closed_items_a_late_attempt_wins() {
    let rules = Rules { items_are_closed: false, ..ALL_RULES };
    assert_finds(&Model { rules, cast: THREE }, Fault::LateAttempt);
}

#[test]
fn without_checking_ended_leases_a_late_attempt_wins() {
    let rules = Rules { ended_leases_are_looked_at: false, ..ALL_RULES };
    assert_finds(&Model { rules, cast: THREE }, Fault::LateAttempt);
}

#[test]
fn without_kept_requests_a_late_attempt_wins() {
    let rules = Rules { requests_are_kept: false, ..ALL_RULES };
    assert_finds(&Model { rules, cast: THREE }, Fault::LateAttempt);
}

#[test]
fn without_noted_repeats_a_late_attempt_wins() {
    let rules = Rules { repeats_are_noted: false, ..ALL_RULES };
    assert_finds(&Model { rules, cast: FOUR }, Fault::LateAttempt);
}

#[test]
fn without_version_checks_a_key_holds_two_leases() {
    let rules = Rules { versions_are_compared: false, ..ALL_RULES };
    assert_finds(&Model { rules, cast: THREE }, Fault::TwoHeld);
}
