//! The load tool on a real fleet, by the arguments that a user types: what it counts, and that it catches a broker
//! that lies. No figure of speed is asserted.

mod claims;
mod files;
mod floor;
mod liars;
mod reach;
mod siege;
mod tool;
