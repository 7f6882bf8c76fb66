//! Containers on a whole fleet, with real runners on engines in memory: warm pools, claims and their ends, and what fails
//! underneath. After each, every container of the engines is named by exactly one record, and the other way round.

mod claims;
mod failures;
mod leases;
mod nodes;
mod parked;
mod pools;
mod world;
