//! The pure parts of a claim.

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn nothing() -> String {
    "a".to_owned()
}
