//! The CSP client against the simulator over real sockets, and the simulator's own promises.

mod canned;
mod control;
mod delete;
mod list;
mod persistence;
mod preclean;
mod rig;
