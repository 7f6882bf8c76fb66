//! The requests about parked creations.

use super::examples;
use super::verbs::{Exchange, operator};
use contract::{ReplayProvisionRequest, ReplayProvisionsReply, ReplayProvisionsRequest, ReplayReply};

pub(super) fn replay() -> Exchange {
    operator::<ReplayProvisionRequest, ReplayReply>("try a parked creation again")
        .shown(&[examples::REPLAY_PROVISION], &[examples::REPLAYED])
}

pub(super) fn replay_all() -> Exchange {
    operator::<ReplayProvisionsRequest, ReplayProvisionsReply>(
        "try all parked creations again, a page at a time; not to be repeated blindly",
    )
    .shown(&[examples::REPLAY_PROVISIONS], &[examples::REPLAYED_PROVISIONS])
}
