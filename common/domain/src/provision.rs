//! The creation of a sandbox that no provider lists, and what a claim of one asks for.

use super::ids::{Fingerprint, TemplateVersion};
use super::lease::Lease;
use super::time::UnixSeconds;

/// A creation that is wanted, or that used up its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provision {
    /// The lease of the claim that it is created for; none if it is to be free.
    pub lease: Option<Lease>,
    /// When it was requested, or replayed.
    pub requested_at: UnixSeconds,
    /// Failed attempts.
    pub attempts: u32,
    /// The error of the last failed attempt, cut like that of a deletion.
    pub last_error: Option<String>,
}

/// What a claim of a created kind asks for. The claim item keeps it, so that every attempt creates the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Creation {
    /// The template, at the version that the first attempt found.
    pub template: TemplateVersion,
    /// Identifies the request; a repeat with another one is another request.
    pub fingerprint: Fingerprint,
}
