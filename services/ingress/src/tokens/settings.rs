//! Where tokens come from: two variables, a file, and a secret.

use ports::secrets::{SecretId, Secrets};
use runtime::settings::{Secret, Settings};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Caller, Entry, Scope, TokenSet, file, fingerprint, parse_name};

/// The tokens as they are at the start, and where more may come from.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// `BROKER_API_TOKEN` and `BROKER_ADMIN_TOKEN`: the tokens of the environment, as digests.
    pub named: Vec<Entry>,
    /// `TOKENS_FILE` and `TOKENS_SECRET`: where lists of tokens are, and what they held when they were read first.
    pub lists: Vec<TokenList>,
    /// The tokens of all of them.
    pub(crate) first: TokenSet,
}

/// A list of tokens that is read again and again.
#[derive(Clone, Debug)]
pub struct TokenList {
    /// Where it is.
    pub place: ListSource,
    /// Time between two looks.
    pub check_period: Duration,
    /// What it held at the start; none for a secret that was not read yet.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Where a list of tokens is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListSource {
    /// In a file.
    File(PathBuf),
    /// In a secret.
    Secret(SecretId),
}

/// Why there are no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} {problem}")]
pub struct BadTokens {
    /// The variable that names the place.
    pub variable: &'static str,
    /// What is wrong there; shows no token.
    pub problem: String,
}

// === impl TokenConfig ===

impl TokenConfig {
    /// Reads the variables, and the file that they name; mistakes are noted in `settings`. A secret is read by
    /// [`TokenConfig::fetch`].
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let lists: Vec<_> = [file_list(settings), secret_list(settings)].into_iter().flatten().collect();
        let is_needed = lists.is_empty();
        let mut named = Vec::new();
        let lab_meaning = "tokens of the labs, or `name:token`, separated by commas; needed without `TOKENS_FILE` and `TOKENS_SECRET`";
        named.extend(tokens(settings, "BROKER_API_TOKEN", Scope::Lab, is_needed, lab_meaning));
        let admin_meaning = "tokens of the operators, or `name:token`, separated by commas; needed without `TOKENS_FILE` and `TOKENS_SECRET`";
        named.extend(tokens(settings, "BROKER_ADMIN_TOKEN", Scope::Admin, is_needed, admin_meaning));
        let mut config = Self { named, lists, first: TokenSet::default() };
        match config.take_stock() {
            Ok(set) => config.first = set,
            Err(BadTokens { variable, problem }) => settings.mistake(variable, &problem),
        }
        config
    }

    /// Reads the secret, if one is named. Once, before the ingress is made.
    ///
    /// # Errors
    /// When it cannot be read, or is no list of tokens.
    pub async fn fetch(&mut self, secrets: Option<&dyn Secrets>) -> Result<(), BadTokens> {
        for list in &mut self.lists {
            let ListSource::Secret(id) = &list.place else { continue };
            let bad = |problem| BadTokens { variable: SECRET_VARIABLE, problem };
            let secrets =
                secrets.ok_or_else(|| bad("cannot be read: there is no store of secrets".to_owned()))?;
            list.bytes =
                Some(secrets.read(id).await.map_err(|error| bad(format!("cannot be read: {error}")))?);
        }
        self.first = self.take_stock()?;
        Ok(())
    }

    /// The tokens of all places that were read.
    fn take_stock(&self) -> Result<TokenSet, BadTokens> {
        let mut entries = self.named.clone();
        for list in &self.lists {
            let variable = list.place.variable();
            let bytes = list.bytes.as_deref().map(file::parse).transpose();
            entries.extend(bytes.map_err(|problem| BadTokens { variable, problem })?.unwrap_or_default());
        }
        let variable = self.lists.last().map_or("BROKER_API_TOKEN", |list| list.place.variable());
        TokenSet::new(entries).map_err(|problem| BadTokens { variable, problem })
    }
}

// === impl ListSource ===

impl ListSource {
    /// The variable that names it.
    pub(crate) const fn variable(&self) -> &'static str {
        match self {
            Self::File(_) => FILE_VARIABLE,
            Self::Secret(_) => SECRET_VARIABLE,
        }
    }

    /// What it is called in what operators read.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Secret(_) => "secret",
        }
    }
}

const FILE_VARIABLE: &str = "TOKENS_FILE";
const SECRET_VARIABLE: &str = "TOKENS_SECRET";

fn file_list(settings: &mut Settings<'_>) -> Option<TokenList> {
    let path = settings.optional(
        "TOKENS_FILE",
        "file of tokens, as `broker token` makes its lines; read again when it changes",
    );
    let check_period = settings.seconds(
        "TOKENS_FILE_LOOK_SECONDS",
        5,
        1..=3_600,
        "time between two looks at the file of tokens",
    );
    let path = PathBuf::from(path?);
    let bytes = read_file(&path).map_err(|problem| settings.mistake(FILE_VARIABLE, &problem)).ok();
    Some(TokenList { place: ListSource::File(path), check_period, bytes })
}

fn secret_list(settings: &mut Settings<'_>) -> Option<TokenList> {
    let id = settings.optional(
        "TOKENS_SECRET",
        "name or ARN of a secret in AWS Secrets Manager that holds tokens as a file would; read again when it changes",
    );
    let check_period = settings.seconds(
        "TOKENS_SECRET_LOOK_SECONDS",
        60,
        1..=3_600,
        "time between two looks at the secret of tokens",
    );
    let id = SecretId::parse(&id?).map_err(|problem| settings.mistake(SECRET_VARIABLE, &problem)).ok()?;
    Some(TokenList { place: ListSource::Secret(id), check_period, bytes: None })
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
