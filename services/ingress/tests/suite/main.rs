//! The ingress against fakes of its ports: every rule of the HTTP API that can be broken without a fleet.

mod admin;
mod answers;
mod callers;
mod claims;
mod cors;
mod observed;
mod readiness;
mod relay;
mod sandboxes;
mod serving;
mod support;
