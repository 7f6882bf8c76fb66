//! What must hold for every sequence of bytes that comes from outside.
//!
//! Each module is one target: a property that panics where it does not hold. The engine (`make fuzz`) looks for such an
//! input; `tests/kept.rs` holds the property for every input that was kept, in an ordinary test. Inputs are text with a
//! first line that says what the rest is, so that a person can read and write them.
#![expect(clippy::expect_used, reason = "a property that does not hold has to panic")]

use contract::fault::INVALID_MESSAGE_CHARS_MAX;
use domain::UnixSeconds;

pub mod answers;
pub mod messages;
pub mod request;
pub mod worker;

/// A target: its name, which is the name of its folders, and its property.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 4] = [
    ("answers", answers::hold),
    ("messages", messages::hold),
    ("request", request::hold),
    ("worker", worker::hold),
];

/// Time in every property.
const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

/// The first line as text, and what stands behind it.
fn split_line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = input.split_at(end);
    Some((std::str::from_utf8(line).ok()?, rest.get(1..).unwrap_or_default()))
}

/// Whether a text can stand in one line of a log.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Whether a refusal says something, in one line that is not as long as its sender likes.
fn is_refusal(message: &str) -> bool {
    let chars = message.chars().count();
    (1..=INVALID_MESSAGE_CHARS_MAX).contains(&chars) && !message.starts_with(' ') && is_one_line(message)
}
