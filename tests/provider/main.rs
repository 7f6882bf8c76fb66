//! The CSP client against the simulator over real sockets, and what the simulator itself guarantees.

mod canned;
mod control;
mod delete;
mod list;
mod persistence;
mod preclean;
mod rig;
