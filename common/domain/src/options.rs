//! What a claim says about the sandbox that it gets.

use std::collections::BTreeMap;

/// Most variables of an environment.
pub const ENV_MAX: usize = 64;
/// Longest environment, in bytes over all names and values.
pub const ENV_BYTES_MAX: usize = 16_384;
/// Most labels of a claim.
pub const LABELS_MAX: usize = 16;
/// Longest name of a label, in bytes.
pub const LABEL_NAME_BYTES_MAX: usize = 63;
/// Longest value of a label, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 255;

/// What a claim says about its sandbox beside where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimOptions {
    /// Variables of every command, beside those of the template.
    pub env: BTreeMap<String, String>,
    /// The holder's own notes.
    pub labels: BTreeMap<String, String>,
}

// === impl ClaimOptions ===

impl ClaimOptions {
    /// None if it says nothing.
    #[must_use]
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }

    /// These, and those of `others` that have other names.
    #[must_use]
    pub fn over(self, others: Option<&Self>) -> Self {
        let Some(others) = others.cloned() else { return self };
        let Self { env, labels } = self;
        Self {
            env: others.env.into_iter().chain(env).collect(),
            labels: others.labels.into_iter().chain(labels).collect(),
        }
    }

    /// Checks environment and labels.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        check_variables(&self.env).map_err(|problem| ("env", problem))?;
        let is_label = |(name, value): (&String, &String)| {
            let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            (1..=LABEL_NAME_BYTES_MAX).contains(&name.len())
                && name.bytes().all(of_name)
                && value.len() <= LABEL_VALUE_BYTES_MAX
                && !value.chars().any(char::is_control)
        };
        if self.labels.len() <= LABELS_MAX && self.labels.iter().all(is_label) {
            return Ok(());
        }
        let problem = format!(
            "must be at most {LABELS_MAX}, with names of 1 to {LABEL_NAME_BYTES_MAX} letters, digits, '-', '_', '.' or '/', and values of at most {LABEL_VALUE_BYTES_MAX} bytes without control characters"
        );
        Err(("labels", problem))
    }
}

/// Checks the variables of an environment.
pub(crate) fn check_variables(env: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if env.len() > ENV_MAX || bytes > ENV_BYTES_MAX {
        return Err(format!("must have at most {ENV_MAX} variables and {ENV_BYTES_MAX} bytes"));
    }
    if !env.keys().all(|name| is_variable(name)) {
        return Err("must have names of ASCII letters, digits and '_' that begin with no digit".to_owned());
    }
    if env.values().any(|value| value.contains('\0')) {
        return Err("must have values without NUL".to_owned());
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}
