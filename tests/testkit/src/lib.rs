//! Fakes of the ports, and fault injection for stores: for tests and simulations only. Services use it in their tests
//! only.

pub mod bus;
pub mod clock;
pub mod engine;
pub mod faulty;
pub mod interposed;
pub mod nodes;
pub mod provider;
pub mod secrets;
pub mod store;
