//! The load tool on a real fleet, by the arguments that a user types: what it counts, and that it catches a broker
//! that lies. No figure of speed is asserted.

mod baseline;
mod claims;
mod contract_violations;
mod files;
mod hostile_load;
mod targets;
mod tool;
