//! Settings from the environment; all mistakes are reported together.
//!
//! A service reads its `Config` through [`Settings`]. Reading continues after an invalid variable: it uses the default
//! and records the mistake. [`Settings::finish`] reports all mistakes together, so that an operator can fix them in one
//! round. Each variable is also a row of `docs/configuration.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// Most bytes of a file with settings.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The source of variables: the environment of the process, or a map in tests.
pub trait Env {
    /// The value of `name`; none if unset or empty.
    fn get(&self, name: &str) -> Option<String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

/// One variable that a service reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The value without the variable, in words.
    pub default: String,
    /// What it means, with its unit.
    pub meaning: &'static str,
}

/// All mistakes in the environment, one line each. Contains no values, because they may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

/// Reads variables and collects mistakes.
pub struct Settings<'a> {
    env: &'a dyn Env,
    variables: Vec<Variable>,
    mistakes: Vec<String>,
    plain: BTreeMap<String, String>,
}

/// A text that never appears in logs, panics or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

// === impl Env ===

impl Env for ProcessEnv {
    // The only code that reads the environment.
    #[expect(clippy::disallowed_methods, reason = "this is the adapter behind the Env port")]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.trim().is_empty())
    }
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).filter(|value| !value.trim().is_empty()).cloned()
    }
}

// === impl Secret ===

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Pass it only to its intended recipient.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(formatter, "{count} setting{} to fix:", if count == 1 { "" } else { "s" })?;
        for mistake in &self.0 {
            write!(formatter, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

// === impl Settings ===

impl<'a> Settings<'a> {
    /// A reader of `env`.
    #[must_use]
    pub fn new(env: &'a dyn Env) -> Self {
        Self { env, variables: Vec::new(), mistakes: Vec::new(), plain: BTreeMap::new() }
    }

    /// A text with a default.
    pub fn text(&mut self, name: &'static str, default: &str, meaning: &'static str) -> String {
        self.note(name, default, meaning);
        self.env.get(name).map_or_else(|| default.to_owned(), |value| value.trim().to_owned())
    }

    /// A text that may be absent.
    pub fn optional(&mut self, name: &'static str, meaning: &'static str) -> Option<String> {
        self.note(name, "none", meaning);
        self.env.get(name).map(|value| value.trim().to_owned())
    }

    /// A required secret.
    pub fn secret(&mut self, name: &'static str, meaning: &'static str) -> Secret {
        self.secret_unless(false, name, meaning)
    }

    /// A secret that is required unless `stands_in`.
    pub fn secret_unless(&mut self, stands_in: bool, name: &'static str, meaning: &'static str) -> Secret {
        self.note(name, "required", meaning);
        match self.env.get(name) {
            Some(value) => Secret::new(value.trim()),
            None => {
                if !stands_in {
                    self.mistake(name, "is required and not set");
                }
                Secret::new("")
            }
        }
    }

    /// A comma-separated list of secrets; at least one if `is_needed`.
    pub fn secrets(&mut self, name: &'static str, is_needed: bool, meaning: &'static str) -> Vec<Secret> {
        self.note(name, "required", meaning);
        let value = self.env.get(name).unwrap_or_default();
        let secrets: Vec<Secret> =
            value.split(',').map(str::trim).filter(|one| !one.is_empty()).map(Secret::new).collect();
        if secrets.is_empty() && is_needed {
            self.mistake(name, "is required and not set (several are separated by commas)");
        }
        secrets
    }

    /// A whole number within limits.
    pub fn number(
        &mut self,
        name: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
        meaning: &'static str,
    ) -> u64 {
        self.note(name, &default.to_string(), meaning);
        let number = match self.env.get(name).map(|value| value.trim().parse::<u64>()) {
            None => default,
            Some(Ok(number)) if bounds.contains(&number) => number,
            Some(_) => {
                let (low, high) = bounds.into_inner();
                self.mistake(name, &format!("must be a whole number from {low} to {high}"));
                default
            }
        };
        self.plain.insert(name.to_owned(), number.to_string());
        number
    }

    /// A whole number within limits, as a size.
    pub fn size(
        &mut self,
        name: &'static str,
        default: u32,
        bounds: RangeInclusive<u32>,
        meaning: &'static str,
    ) -> usize {
        let (low, high) = bounds.into_inner();
        let number = self.number(name, u64::from(default), u64::from(low)..=u64::from(high), meaning);
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    /// A time in whole seconds within limits; the name of the variable states the unit.
    pub fn seconds(
        &mut self,
        name: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
        meaning: &'static str,
    ) -> Duration {
        Duration::from_secs(self.number(name, default, bounds, meaning))
    }

    /// A time in whole milliseconds within limits; the name of the variable states the unit.
    pub fn millis(
        &mut self,
        name: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
        meaning: &'static str,
    ) -> Duration {
        Duration::from_millis(self.number(name, default, bounds, meaning))
    }

    /// A switch: `true` or `false`.
    pub fn switch(&mut self, name: &'static str, default: bool, meaning: &'static str) -> bool {
        let read = self.parsed(name, if default { "true" } else { "false" }, meaning, |value| match value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        });
        let is_on = read.unwrap_or(default);
        self.plain.insert(name.to_owned(), is_on.to_string());
        is_on
    }

    /// A value that `parse` makes of the text; none after a mistake.
    pub fn parsed<T>(
        &mut self,
        name: &'static str,
        default: &str,
        meaning: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.text(name, default, meaning);
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.mistake(name, &problem);
                None
            }
        }
    }

    /// Adds a mistake that the caller detected.
    pub fn mistake(&mut self, name: &str, problem: &str) {
        self.mistakes.push(format!("{name} {problem}"));
    }

    /// Returns the configuration.
    ///
    /// # Errors
    /// [`Mistakes`] if there are any.
    pub fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() { Ok(config) } else { Err(Mistakes(self.mistakes)) }
    }

    /// The numbers and booleans that were read. Texts are not included, because some are secrets.
    #[must_use]
    pub fn plain(&self) -> &BTreeMap<String, String> {
        &self.plain
    }

    /// Every variable that was read, in the order of reading.
    #[must_use]
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    fn note(&mut self, name: &'static str, default: &str, meaning: &'static str) {
        if !self.variables.iter().any(|variable| variable.name == name) {
            self.variables.push(Variable { name, default: default.to_owned(), meaning });
        }
    }
}

/// The text of a file with settings.
///
/// # Errors
/// The file cannot be read, or is larger than any file with settings.
pub fn read_file(path: impl AsRef<Path>) -> Result<String, String> {
    let size = std::fs::metadata(&path).map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The rows of the table in `docs/configuration.md`.
#[must_use]
pub fn table_rows(variables: &[Variable]) -> String {
    let mut rows = String::from("| variable | default | meaning |\n|---|---|---|\n");
    for Variable { name, default, meaning } in variables {
        // Writing into a String cannot fail.
        let _ = writeln!(rows, "| `{name}` | {default} | {meaning} |");
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let env = env(&[("A", "x"), ("B", "11"), ("C", "maybe")]);
        let mut settings = Settings::new(&env);
        settings.number("A", 1, 0..=10, "a");
        settings.number("B", 1, 0..=10, "b");
        settings.switch("C", false, "c");
        settings.secret("D", "d");
        let mistakes = settings.finish(()).unwrap_err();
        assert_eq!(mistakes.0.len(), 4);
        let text = mistakes.to_string();
        assert!(text.starts_with("4 settings to fix:"), "{text}");
        assert!(text.contains("D is required and not set"), "{text}");
    }

    #[test]
    fn blank_variable_uses_the_default() {
        let env = env(&[("A", "  "), ("C", "secret")]);
        let mut settings = Settings::new(&env);
        assert_eq!(settings.number("A", 7, 0..=10, "a"), 7);
        assert!(settings.switch("B", true, "b"));
        settings.secret("C", "c");
        let plain: Vec<_> = settings.plain().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(plain, ["A=7", "B=true"]);
        assert!(settings.finish(()).is_ok());
    }

    #[test]
    fn several_tokens_are_read_and_redacted() {
        let env = env(&[("T", "one, two,,")]);
        let mut settings = Settings::new(&env);
        let tokens = settings.secrets("T", true, "t");
        assert_eq!(tokens.len(), 2);
        assert!(!format!("{tokens:?}").contains("one"));
        assert!(settings.secrets("U", false, "u").is_empty());
        assert!(settings.finish(()).is_ok());
    }
}
