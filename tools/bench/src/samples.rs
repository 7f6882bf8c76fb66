//! Every measured call in a file, for other evaluations.

use super::calls::Sample;
use anyhow::Context as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

/// The columns. Times are microseconds since the run began; a latency counts from the intended start.
pub const HEADER: &str = "intended_start_us,start_us,latency_us,outcome,call";

/// Writes one line for each sample.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, samples: &[Sample]) -> anyhow::Result<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{HEADER}")?;
        for Sample { call, ending, intended_start_us, start_us, latency_us } in samples {
            let (outcome, call) = (ending.as_str(), call.as_str());
            writeln!(file, "{intended_start_us},{start_us},{latency_us},{outcome},{call}")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write the samples to {}", path.display()))
}
