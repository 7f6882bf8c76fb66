//! Every interleaving of a small model of claims of what the fleet creates (rules P1 and P7): three attempts at one key,
//! one of them of another request; warm sandboxes, refills, provisioning that ends well, fails, is parked and replayed;
//! releases; claim items that are given up. Any attempt may stop at any call.
//!
//! As with the model of listed sandboxes, it is written independently of the code, and each rule is switched off once.
//! Which attempt may be late is the subject of that model and left out here.

use crate::search::{Sights, assert_finds, search};

type Id = u8;
/// How often a sandbox changed; 0 is one that does not exist yet.
type Version = u8;
/// What a request asks for.
type Print = u8;

const SANDBOXES: usize = 4;
const ATTEMPTS: usize = 3;

/// The rules of the protocol.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// An attempt leaves an id only after it was seen to exist, if need be as a tombstone.
    absent_ids_are_not_left: bool,
    /// A repeat with another fingerprint is refused.
    fingerprints_are_compared: bool,
    /// A sandbox is created only if its id does not exist.
    creation_is_conditional: bool,
    /// A runner's report counts only while the sandbox is being created.
    reports_are_conditional: bool,
}

const ALL_RULES: Rules = Rules {
    absent_ids_are_not_left: true,
    fingerprints_are_compared: true,
    creation_is_conditional: true,
    reports_are_conditional: true,
};

/// What each attempt asks for.
const PRINTS: [Print; ATTEMPTS] = [0, 0, 1];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sandbox {
    Absent,
    Free(Version),
    /// Being created, perhaps for the key.
    Making(Option<Print>),
    /// Its creation is parked.
    Failed(Option<Print>),
    Held {
        print: Print,
        claimed: Version,
    },
    /// Held by the key before.
    Ended {
        claimed: Version,
    },
    Tombstone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Item {
    id: Id,
    version: Version,
    is_closed: bool,
    print: Print,
}

/// The next step of an attempt, with what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Looking,
    Opening(Item),
    /// The item is of another request: has its lease ended?
    Comparing(Item),
    Granting(Item),
    /// Gives up an id that does not exist yet.
    Abandoning(Item),
    Leaving(Item),
    Moving {
        from: Item,
        to: Item,
    },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    sandboxes: [Sandbox; SANDBOXES],
    /// Ids from here on were never chosen.
    fresh: Id,
    item: Option<Item>,
    attempts: [At; ATTEMPTS],
    /// Sandboxes whose release has not closed the claim item yet.
    closing: u8,
    /// Runners that have created that sandbox and not reported it yet.
    reports: u8,
    /// How many more free ones the pool wants.
    refills: u8,
    /// How often an attempt may still give up an id, as when the pool is drained meanwhile.
    abandonments: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The key holds two sandboxes.
    TwoHeld,
    /// A request is answered with what another request asked for.
    WrongRequest,
    /// A sandbox whose lease has ended is held again without a claim.
    Revived,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sight {
    Created,
    TwinCreated,
    WarmTaken,
    AnsweredWhileMaking,
    Abandoned,
    AbandonedTooLate,
    KeyInUse,
    LateReport,
    Replayed,
    MovedAfterEnd,
}

const SIGHTS: [Sight; 10] = [
    Sight::Created,
    Sight::TwinCreated,
    Sight::WarmTaken,
    Sight::AnsweredWhileMaking,
    Sight::Abandoned,
    Sight::AbandonedTooLate,
    Sight::KeyInUse,
    Sight::LateReport,
    Sight::Replayed,
    Sight::MovedAfterEnd,
];

struct Model {
    rules: Rules,
}

// === impl State ===

impl State {
    fn with(mut self, attempt: usize, at: At) -> Self {
        self.attempts[attempt] = at;
        self
    }

    fn put(mut self, id: Id, sandbox: Sandbox) -> Self {
        self.sandboxes[usize::from(id)] = sandbox;
        self
    }

    fn at(&self, id: Id) -> Sandbox {
        self.sandboxes[usize::from(id)]
    }

    /// What an attempt may choose: every free sandbox, and a fresh id, because an index may not show the free ones.
    fn choices(&self, print: Print) -> Vec<(Item, Self)> {
        let item = |id, version| Item { id, version, is_closed: false, print };
        let mut choices = Vec::new();
        for id in 0..self.fresh {
            if let Sandbox::Free(version) = self.at(id) {
                choices.push((item(id, version), *self));
            }
        }
        if usize::from(self.fresh) < SANDBOXES {
            choices.push((item(self.fresh, 0), Self { fresh: self.fresh + 1, ..*self }));
        }
        choices
    }
}

impl crate::search::Model for Model {
    type State = State;
    type Fault = Fault;
    type Sight = Sight;

    /// One warm sandbox.
    fn first(&self) -> State {
        let mut sandboxes = [Sandbox::Absent; SANDBOXES];
        sandboxes[0] = Sandbox::Free(2);
        State {
            sandboxes,
            fresh: 1,
            item: None,
            attempts: [At::Looking; ATTEMPTS],
            closing: 0,
            reports: 0,
            refills: 1,
            abandonments: 2,
        }
    }

    fn fault(state: &State) -> Option<Fault> {
        let is_held = |sandbox: &&Sandbox| {
            matches!(sandbox, Sandbox::Held { .. } | Sandbox::Making(Some(_)) | Sandbox::Failed(Some(_)))
        };
        (state.sandboxes.iter().filter(is_held).count() > 1).then_some(Fault::TwoHeld)
    }

    fn next(&self, state: &State, sights: &mut Sights<Sight>) -> Result<Vec<State>, Fault> {
        let mut next = Vec::new();
        for attempt in 0..ATTEMPTS {
            self.step(state, attempt, sights, &mut next)?;
        }
        for id in 0..state.fresh {
            self.others(state, id, sights, &mut next)?;
        }
        if state.refills > 0 && usize::from(state.fresh) < SANDBOXES {
            let filled = state.put(state.fresh, Sandbox::Making(None));
            next.push(State { fresh: state.fresh + 1, refills: state.refills - 1, ..filled });
        }
        Ok(next)
    }
}

// === impl Model ===

impl Model {
    /// What runners, holders, expiry and operators do with a sandbox.
    fn others(
        &self,
        state: &State,
        id: Id,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) -> Result<(), Fault> {
        let bit = 1 << id;
        let end = |claimed| {
            let ended = state.put(id, Sandbox::Ended { claimed });
            State { closing: ended.closing | bit, ..ended }
        };
        match state.at(id) {
            Sandbox::Making(lease) => {
                next.push(State { reports: state.reports | bit, ..*state });
                next.push(state.put(id, Sandbox::Failed(lease)));
                if lease.is_some() {
                    next.push(end(0));
                }
            }
            Sandbox::Failed(lease) => {
                sights.saw(Sight::Replayed);
                next.push(state.put(id, Sandbox::Making(lease)));
                if lease.is_some() {
                    next.push(end(0));
                }
            }
            Sandbox::Held { claimed, .. } => next.push(end(claimed)),
            Sandbox::Ended { claimed } if state.closing & bit != 0 => {
                let item = state.item.map(|item| {
                    let is_closed = item.is_closed || (item.id, item.version) == (id, claimed);
                    Item { is_closed, ..item }
                });
                next.push(State { item, closing: state.closing & !bit, ..*state });
            }
            _ => {}
        }
        if state.reports & bit != 0 {
            let reported = State { reports: state.reports & !bit, ..*state };
            match state.at(id) {
                Sandbox::Making(Some(print)) => {
                    next.push(reported.put(id, Sandbox::Held { print, claimed: 0 }));
                }
                Sandbox::Making(None) => next.push(reported.put(id, Sandbox::Free(2))),
                Sandbox::Ended { .. } if !self.rules.reports_are_conditional => return Err(Fault::Revived),
                // The runner removes what it has created.
                _ => {
                    sights.saw(Sight::LateReport);
                    next.push(reported);
                }
            }
        }
        Ok(())
    }

    fn step(
        &self,
        state: &State,
        attempt: usize,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) -> Result<(), Fault> {
        let go = |at| state.with(attempt, at);
        let print = PRINTS[attempt];
        match state.attempts[attempt] {
            At::Looking => {
                let choices = state.choices(print);
                next.extend(choices.iter().map(|(item, after)| after.with(attempt, At::Opening(*item))));
                if choices.is_empty() {
                    next.push(go(state.item.map_or(At::Over, |item| self.go_on(item, print))));
                }
            }
            At::Opening(wanted) => match state.item {
                Some(held) => next.push(go(self.go_on(held, print))),
                None => next.push(State { item: Some(wanted), ..go(At::Granting(wanted)) }),
            },
            At::Comparing(item) => {
                if matches!(state.at(item.id), Sandbox::Ended { .. } | Sandbox::Tombstone) {
                    next.push(go(At::Leaving(item)));
                } else {
                    sights.saw(Sight::KeyInUse);
                    next.push(go(At::Over));
                }
            }
            At::Granting(item) => {
                self.grant(state, attempt, item, sights, next)?;
                if item.version == 0 && state.abandonments > 0 {
                    let at = if self.rules.absent_ids_are_not_left {
                        At::Abandoning(item)
                    } else if state.at(item.id) == Sandbox::Absent {
                        At::Leaving(item)
                    } else {
                        return Ok(());
                    };
                    next.push(State { abandonments: state.abandonments - 1, ..go(at) });
                }
            }
            At::Abandoning(item) => match state.at(item.id) {
                Sandbox::Absent => {
                    sights.saw(Sight::Abandoned);
                    next.push(go(At::Leaving(item)).put(item.id, Sandbox::Tombstone));
                }
                _ => {
                    sights.saw(Sight::AbandonedTooLate);
                    next.push(go(At::Granting(item)));
                }
            },
            At::Leaving(from) => {
                let choices = state.choices(print);
                next.extend(
                    choices.iter().map(|(to, after)| after.with(attempt, At::Moving { from, to: *to })),
                );
                if choices.is_empty() {
                    let other = state.item.filter(|item| *item != from);
                    next.push(go(other.map_or(At::Over, |item| self.go_on(item, print))));
                }
            }
            At::Moving { from, to } => match state.item {
                Some(item) if item == from => {
                    if matches!(state.at(from.id), Sandbox::Ended { .. }) {
                        sights.saw(Sight::MovedAfterEnd);
                    }
                    next.push(State { item: Some(to), ..go(At::Granting(to)) });
                }
                Some(item) => next.push(go(self.go_on(item, print))),
                None => next.push(go(At::Looking)),
            },
            At::Over => {}
        }
        Ok(())
    }

    fn go_on(&self, item: Item, print: Print) -> At {
        if item.is_closed {
            At::Leaving(item)
        } else if item.print != print && self.rules.fingerprints_are_compared {
            At::Comparing(item)
        } else {
            At::Granting(item)
        }
    }

    fn grant(
        &self,
        state: &State,
        attempt: usize,
        item: Item,
        sights: &mut Sights<Sight>,
        next: &mut Vec<State>,
    ) -> Result<(), Fault> {
        let over = state.with(attempt, At::Over);
        let answered = |print| if print == PRINTS[attempt] { Ok(over) } else { Err(Fault::WrongRequest) };
        match state.at(item.id) {
            Sandbox::Absent if item.version == 0 => {
                sights.saw(Sight::Created);
                next.push(over.put(item.id, Sandbox::Making(Some(item.print))));
            }
            Sandbox::Ended { .. } if item.version == 0 && !self.rules.creation_is_conditional => {
                return Err(Fault::Revived);
            }
            Sandbox::Free(version) if version == item.version => {
                sights.saw(Sight::WarmTaken);
                next.push(over.put(item.id, Sandbox::Held { print: item.print, claimed: version }));
            }
            Sandbox::Making(Some(print)) | Sandbox::Failed(Some(print)) => {
                sights.saw(if item.version == 0 { Sight::TwinCreated } else { Sight::AnsweredWhileMaking });
                sights.saw(Sight::AnsweredWhileMaking);
                next.push(answered(print)?);
            }
            Sandbox::Held { print, .. } => next.push(answered(print)?),
            _ => next.push(state.with(attempt, At::Leaving(item))),
        }
        Ok(())
    }
}

#[test]
fn no_key_holds_two_sandboxes_and_no_request_gets_that_of_another() {
    let found = search(&Model { rules: ALL_RULES });
    println!("{} states, {:?}", found.states, found.sights);
    assert!(found.fault.is_none(), "{:#?}", found.fault);
    for sight in SIGHTS {
        assert!(found.sights.0.contains_key(&sight), "{sight:?} never came up");
    }
}

#[test]
fn attempt_that_takes_an_absent_id_for_lost_holds_two() {
    let rules = Rules { absent_ids_are_not_left: false, ..ALL_RULES };
    assert_finds(&Model { rules }, Fault::TwoHeld);
}

#[test]
fn without_fingerprints_a_request_gets_what_another_asked_for() {
    let rules = Rules { fingerprints_are_compared: false, ..ALL_RULES };
    assert_finds(&Model { rules }, Fault::WrongRequest);
}

#[test]
fn unconditional_creation_revives_an_ended_sandbox() {
    let rules = Rules { creation_is_conditional: false, ..ALL_RULES };
    assert_finds(&Model { rules }, Fault::Revived);
}

#[test]
fn unconditional_report_revives_an_ended_sandbox() {
    let rules = Rules { reports_are_conditional: false, ..ALL_RULES };
    assert_finds(&Model { rules }, Fault::Revived);
}
