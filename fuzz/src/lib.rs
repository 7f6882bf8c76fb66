//! Properties that must hold for every sequence of external bytes.
//!
//! Each module is one target: a property that panics if it does not hold. The engine (`make fuzz`) searches for such an
//! input; `tests/kept.rs` checks the property for every kept input in an ordinary test. Inputs are text whose first
//! line says what the rest is, so that people can read and write them.
#![expect(clippy::expect_used, reason = "a property that does not hold has to panic")]

use contract::fault::INVALID_MESSAGE_CHARS_MAX;
use domain::UnixSeconds;

pub mod answers;
pub mod messages;
pub mod principal;
pub mod request;
pub mod supervisor_frames;
pub mod worker;

/// A target: its name, which is also the name of its folders, and its property.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("answers", answers::hold),
    ("messages", messages::hold),
    ("principal", principal::hold),
    ("request", request::hold),
    ("supervisor_frames", supervisor_frames::hold),
    ("worker", worker::hold),
];

/// The current time in every property.
const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

/// The first line as text, and the rest.
fn split_line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = input.split_at(end);
    Some((std::str::from_utf8(line).ok()?, rest.get(1..).unwrap_or_default()))
}

/// Whether a text fits into one line of a log.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Whether a refusal has a message of one line and limited length.
fn is_refusal(message: &str) -> bool {
    let chars = message.chars().count();
    (1..=INVALID_MESSAGE_CHARS_MAX).contains(&chars) && !message.starts_with(' ') && is_one_line(message)
}
