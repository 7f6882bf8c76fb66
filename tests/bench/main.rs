//! Runs the load tool on a real fleet with the arguments that a user types: tests what it counts, and that it detects a
//! broker that breaks the contract. No test asserts a speed.

mod baseline;
mod claims;
mod containers;
mod contract_violations;
mod files;
mod hostile_load;
mod targets;
mod tool;
