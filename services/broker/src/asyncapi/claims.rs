//! The requests about claims and what containers do.

use super::examples;
use super::verbs::{Exchange, any_caller};
use contract::claims::{ClaimView, ClaimsReply, ClaimsRequest, RuntimeRequest};
use contract::{AllocateRequest, SandboxRequest};

pub(super) fn claim() -> Exchange {
    any_caller::<AllocateRequest, ClaimView>("claim a sandbox and show the claim")
        .shown(&[examples::CLAIM, examples::REPLICA], &[examples::CLAIMED, examples::CREATING])
}

pub(super) fn list() -> Exchange {
    any_caller::<ClaimsRequest, ClaimsReply>("list my claims, page by page")
        .shown(&[examples::ASK_CLAIMS], &[examples::CLAIMS])
}

pub(super) fn show() -> Exchange {
    any_caller::<SandboxRequest, ClaimView>("show one of them")
        .shown(&[examples::OWN_CONTAINER], &[examples::CLAIMED, examples::LOST])
}

pub(super) fn runtime() -> Exchange {
    any_caller::<RuntimeRequest, ClaimView>(
        "start, stop, restart, pause or resume my container; not to be repeated blindly",
    )
    .shown(&[examples::STOP, examples::STOP_LEAST], &[examples::STOPPED])
}
