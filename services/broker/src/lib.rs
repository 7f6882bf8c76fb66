//! The composition root: combines services and adapters, as a whole fleet in one process (`broker up`, and flow tests)
//! or one role at a time.
//!
//! # Consumes
//! The command line and the environment.
//!
//! # Produces
//! Running services; for `broker up` also a `nats-server`, an embedded table and the CSP simulator.
//!
//! # Calls
//! Every service's `run`.
//!
//! # Guarantees
//! All mistakes in the environment are reported together, before anything starts. A process that is asked to stop ends
//! in order, and its children never outlive it.
//!
//! # Never
//! Contains a rule of the broker: those are in the services.

pub mod cli;

pub mod fleet;
mod readiness;
pub mod role;
pub mod up;

pub mod child;
mod client;
mod context;
pub mod data;
mod deletions;
pub mod descriptors;
mod disk;
pub mod doctor;
pub mod embedded;
pub mod nats_server;
mod nodes;
mod notes;
mod opening;
mod output;
mod pools;
mod provisions;
pub mod store;
mod table;
mod templates;
mod tick;
pub mod ticks;
mod token;
pub mod transport;
mod views;

pub mod asyncapi;
pub mod operate;
