//! The supervisor as a static program, for engines (`build.rs`).

/// The program, which needs nothing from the sandbox but `/proc`. Empty on systems other than Linux.
pub static SUPERVISOR: &[u8] = include_bytes!(env!("SUPERVISOR"));

#[cfg(test)]
mod tests {
    use super::SUPERVISOR;

    /// It is read from disk for every sandbox, and embedded in the broker.
    const SIZE_BYTES_MAX: usize = 1_500_000;
    /// The type of the entry of an ELF file that names the loader of a dynamic program.
    const INTERPRETER: u32 = 3;
    /// Where a 64-bit ELF file says where its table of entries is, their size and number.
    const TABLE_AT: usize = 32;
    const ENTRY_SIZE_AT: usize = 54;
    const ENTRIES_AT: usize = 56;

    fn number(at: usize, bytes: usize) -> usize {
        SUPERVISOR[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    #[test]
    fn program_is_static_and_small() {
        assert!(SUPERVISOR.starts_with(b"\x7fELF"));
        assert!(SUPERVISOR.len() <= SIZE_BYTES_MAX, "{} bytes", SUPERVISOR.len());
        let (table, size) = (number(TABLE_AT, 8), number(ENTRY_SIZE_AT, 2));
        let kinds = (0..number(ENTRIES_AT, 2)).map(|index| number(table + index * size, 4));
        assert!(!kinds.into_iter().any(|kind| kind == INTERPRETER as usize), "it needs a loader");
    }
}
