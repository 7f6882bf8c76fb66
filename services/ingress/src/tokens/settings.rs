//! Where tokens come from: two variables, and a file.

use common::runtime::settings::{Secret, Settings};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Entry, Scope, TokenSet, file, fingerprint, parse_name};

/// The tokens as they are at the start, and where more may come from.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// `BROKER_API_TOKEN` and `BROKER_ADMIN_TOKEN`: the tokens of the environment, as digests.
    pub named: Vec<Entry>,
    /// `TOKENS_FILE`: the file of tokens, if there is one.
    pub file: Option<PathBuf>,
    /// `TOKENS_FILE_LOOK_SECONDS`: time between two looks at the file; 5.
    pub look_every: Duration,
    /// Those of both at the start.
    pub(crate) first: TokenSet,
    /// What the file held then.
    pub(crate) first_bytes: Vec<u8>,
}

// === impl TokenConfig ===

impl TokenConfig {
    /// Reads the variables, and the file that they name; mistakes are noted in `settings`.
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let path = settings
            .optional(
                "TOKENS_FILE",
                "file of tokens, as `broker token` makes its lines; read again when it changes",
            )
            .map(PathBuf::from);
        let is_needed = path.is_none();
        let mut named = Vec::new();
        let lab_meaning =
            "tokens of the labs, or `name:token`, separated by commas; needed without `TOKENS_FILE`";
        named.extend(tokens(settings, "BROKER_API_TOKEN", Scope::Lab, is_needed, lab_meaning));
        let admin_meaning =
            "tokens of the operators, or `name:token`, separated by commas; needed without `TOKENS_FILE`";
        named.extend(tokens(settings, "BROKER_ADMIN_TOKEN", Scope::Admin, is_needed, admin_meaning));
        let look_every = settings.seconds(
            "TOKENS_FILE_LOOK_SECONDS",
            5,
            1..=3_600,
            "time between two looks at the file of tokens",
        );
        let mut config =
            Self { named, file: path, look_every, first: TokenSet::default(), first_bytes: Vec::new() };
        match config.take_stock() {
            Ok((set, bytes)) => (config.first, config.first_bytes) = (set, bytes),
            Err((variable, problem)) => settings.mistake(variable, &problem),
        }
        config
    }

    /// The tokens of both places.
    fn take_stock(&self) -> Result<(TokenSet, Vec<u8>), (&'static str, String)> {
        let Some(path) = &self.file else {
            let set = TokenSet::new(self.named.iter().cloned());
            return Ok((set.map_err(|problem| ("BROKER_API_TOKEN", problem))?, Vec::new()));
        };
        let bytes = read_file(path).map_err(|problem| ("TOKENS_FILE", problem))?;
        let set = together(&self.named, &bytes).map_err(|problem| ("TOKENS_FILE", problem))?;
        Ok((set, bytes))
    }
}

/// The tokens of the environment and those of a file's text.
pub(super) fn together(named: &[Entry], bytes: &[u8]) -> Result<TokenSet, String> {
    let of_file = file::parse(bytes)?;
    TokenSet::new(named.iter().cloned().chain(of_file))
}

/// What the file holds, or why that cannot be known; never more than a file may hold.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let most = u64::try_from(file::FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("cannot be read: {error}"))
}

// A token without a name is called by its place. A colon cannot be in a bearer token (RFC 6750, 2.1), so what
// stands before one is a name.
fn tokens(
    settings: &mut Settings<'_>,
    name: &'static str,
    scope: Scope,
    is_needed: bool,
    meaning: &'static str,
) -> Vec<Entry> {
    let secrets = settings.secrets(name, is_needed, meaning);
    let mut entries = Vec::new();
    for (secret, place) in secrets.iter().zip(1_usize..) {
        match entry(secret, scope, place) {
            Ok(entry) => entries.push(entry),
            Err(problem) => settings.mistake(name, &problem),
        }
    }
    entries
}

fn entry(secret: &Secret, scope: Scope, place: usize) -> Result<Entry, String> {
    let (name, token) = match secret.expose().split_once(':') {
        Some((name, token)) => (name.to_owned(), token),
        None if place == 1 => (scope.as_str().to_owned(), secret.expose()),
        None => (format!("{}-{place}", scope.as_str()), secret.expose()),
    };
    // A token that no header can carry would lock its holder out without a word.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("may hold only visible ASCII characters".to_owned());
    }
    let name = parse_name(&name)?;
    let caller = Caller { name, scopes: vec![scope], pools: Vec::new() };
    Ok(Entry { digest: fingerprint(token.as_bytes()), caller: Arc::new(caller) })
}
