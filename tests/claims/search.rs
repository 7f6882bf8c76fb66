//! A search through every state of a small model, breadth first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

/// A model of a protocol.
pub(crate) trait Model {
    type State: Copy + Debug + Eq + Hash;
    /// A violation that the search looks for.
    type Fault: Copy + Debug + Eq;
    /// An event that must occur, or the model proves little.
    type Sight: Copy + Debug + Eq + Hash;

    fn first(&self) -> Self::State;
    /// Every possible next state, or the fault that a step causes.
    fn next(
        &self,
        state: &Self::State,
        sights: &mut Sights<Self::Sight>,
    ) -> Result<Vec<Self::State>, Self::Fault>;
    /// The fault that a state is.
    fn fault(state: &Self::State) -> Option<Self::Fault>;
}

/// How often each event occurred.
#[derive(Clone, Debug)]
pub(crate) struct Sights<S>(pub(crate) HashMap<S, u64>);

impl<S: Eq + Hash> Sights<S> {
    pub(crate) fn saw(&mut self, sight: S) {
        *self.0.entry(sight).or_default() += 1;
    }
}

/// The result of a search: a fault has the states that lead to it.
pub(crate) struct Found<M: Model> {
    pub(crate) states: usize,
    pub(crate) fault: Option<(M::Fault, Vec<M::State>)>,
    pub(crate) sights: Sights<M::Sight>,
}

/// Searches until there is a fault or no state is left.
pub(crate) fn search<M: Model>(model: &M) -> Found<M> {
    let mut sights = Sights(HashMap::new());
    let first = model.first();
    let mut seen = HashSet::from([first]);
    let mut from: HashMap<M::State, M::State> = HashMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(state) = queue.pop_front() {
        let next = match model.next(&state, &mut sights) {
            Ok(next) => next,
            Err(fault) => {
                return Found { states: seen.len(), fault: Some((fault, way_to(&from, state))), sights };
            }
        };
        for after in next {
            if !seen.insert(after) {
                continue;
            }
            from.insert(after, state);
            if let Some(fault) = M::fault(&after) {
                return Found { states: seen.len(), fault: Some((fault, way_to(&from, after))), sights };
            }
            queue.push_back(after);
        }
    }
    Found { states: seen.len(), fault: None, sights }
}

fn way_to<S: Copy + Eq + Hash>(from: &HashMap<S, S>, mut last: S) -> Vec<S> {
    let mut way = vec![last];
    while let Some(before) = from.get(&last) {
        last = *before;
        way.push(last);
    }
    way.reverse();
    way
}

/// Checks that the model, one of whose rules is off, has the fault that the rule prevents.
#[track_caller]
pub(crate) fn assert_finds<M: Model>(model: &M, expected: M::Fault) {
    let (fault, way) = search(model).fault.expect("the rule is there for something");
    println!("{way:#?}");
    assert_eq!(fault, expected);
}
