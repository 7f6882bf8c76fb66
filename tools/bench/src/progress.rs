//! A progress bar for long runs, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Shorter runs have no bar.
const QUIET: Duration = Duration::from_secs(2);
/// Pause between two drawings.
const DRAW_PAUSE: Duration = Duration::from_millis(250);
/// Drawings of the bar in a second, at most.
const DRAWINGS_PER_SECOND: u8 = 4;

/// The maximum of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Total {
    /// A number of calls.
    Count(u64),
    /// A duration.
    Time(Duration),
}

/// A bar that updates itself until it ends.
#[derive(Debug)]
pub(super) struct Progress(Option<JoinHandle<()>>);

// === impl Progress ===

impl Progress {
    /// Shows the progress of `done` towards `total`, from two seconds on, if the output is a terminal.
    pub(super) fn show(what: &'static str, total: Total, done: &Arc<AtomicU64>) -> Self {
        let is_short = matches!(total, Total::Time(span) if span <= QUIET);
        if is_short || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        Self(Some(tokio::spawn(draw(what, total, Arc::clone(done)))))
    }

    /// Takes the bar away.
    pub(super) fn end(self) {
        if let Some(drawing) = self.0 {
            drawing.abort();
        }
    }
}

async fn draw(what: &'static str, total: Total, done: Arc<AtomicU64>) {
    let (began, at_first) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(QUIET).await;
    let target = ProgressDrawTarget::stderr_with_hz(DRAWINGS_PER_SECOND);
    let length = match total {
        Total::Count(count) => count,
        Total::Time(span) => u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
    };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    // With an invalid template the default style remains.
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {percent:>3}%  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    // Dropping it, at the end or when it is aborted, wipes the line.
    let bar = bar.with_finish(indicatif::ProgressFinish::AndClear);
    loop {
        let done = done.load(Ordering::Relaxed).saturating_sub(at_first);
        let gone = began.elapsed();
        bar.set_position(match total {
            Total::Count(_) => done,
            Total::Time(_) => u64::try_from(gone.as_millis()).unwrap_or(u64::MAX).min(length),
        });
        let rate = done as f64 / gone.as_secs_f64().max(f64::EPSILON);
        bar.set_message(format!("{done} {what}, {rate:.0}/s"));
        tokio::time::sleep(DRAW_PAUSE).await;
    }
}
