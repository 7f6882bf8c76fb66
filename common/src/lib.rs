//! What the services of the sandbox broker must agree on.
//!
//! Layer 0 is [`domain`]: sandboxes, leases and every legal transition, without I/O.
//! Layer 1 is the promises: [`clock`], [`random`], [`contract`] (what crosses NATS) and the ports [`store`],
//! [`provider`] and [`bus`].
//! Layer 2 is the adapters below those ports, [`runtime`] (settings, telemetry, life cycle), and [`client`], which asks a
//! broker through either adapter of the bus.
//! A thing lives here only if two services must agree on it.

pub mod domain;

pub mod clock;
pub mod contract;
pub mod random;

pub mod bus;
pub mod client;
pub mod provider;
pub mod secrets;
pub mod store;

mod aws;
pub mod runtime;

#[doc(hidden)]
pub mod door;
