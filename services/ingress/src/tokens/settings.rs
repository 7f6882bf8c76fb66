//! Where tokens come from: two variables, a file, or a secret; exactly one of these.

use contract::{Principal, Role};
use ports::secrets::{SecretId, Secrets};
use runtime::settings::{Secret, Settings};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Digest, Entry, TokenSet, file, fingerprint, parse_name};

/// The source of tokens, and the tokens as they are at the start.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The list that is read again and again; none if the tokens are those of the environment (`BROKER_API_TOKEN` and
    /// `BROKER_ADMIN_TOKEN`).
    pub list: Option<TokenList>,
    /// What there was at the start; nothing before a secret is read.
    pub(crate) first: TokenSet,
}

/// A list of tokens that is read again and again.
#[derive(Clone, Debug)]
pub struct TokenList {
    /// Where it is.
    pub source: ListSource,
    /// Time between two looks.
    pub check_period: Duration,
    /// The digest of what it held at the start; none for a secret that was not read yet.
    pub(crate) first_digest: Option<Digest>,
}

/// Where a list of tokens is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListSource {
    /// `TOKENS_FILE`: in a file.
    File(PathBuf),
    /// `TOKENS_SECRET`: in a secret.
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
    /// Reads the variables, and the file if one is named; mistakes are noted in `settings`. A secret is read by
    /// [`TokenConfig::fetch`].
    pub(crate) fn read(settings: &mut Settings<'_>) -> Self {
        let path = settings.optional(
            "TOKENS_FILE",
            "file of tokens, as `broker token` makes its lines; read again when it changes",
        );
        let file_check_period = settings.seconds(
            "TOKENS_FILE_LOOK_SECONDS",
            5,
            1..=3_600,
            "time between two looks at the file of tokens",
        );
        let id = settings.optional(
            "TOKENS_SECRET",
            "name or ARN of a secret in AWS Secrets Manager that holds tokens as a file would; read again when it changes",
        );
        let secret_check_period = settings.seconds(
            "TOKENS_SECRET_LOOK_SECONDS",
            60,
            1..=3_600,
            "time between two looks at the secret of tokens",
        );
        let is_needed = path.is_none() && id.is_none();
        let lab = settings.secrets(
            "BROKER_API_TOKEN",
            is_needed,
            "tokens of the labs, or `name:token`, separated by commas; only without `TOKENS_FILE` and `TOKENS_SECRET`",
        );
        let admin = settings.secrets(
            "BROKER_ADMIN_TOKEN",
            is_needed,
            "tokens of the operators, or `name:token`, separated by commas; only without `TOKENS_FILE` and `TOKENS_SECRET`",
        );
        let of_environment = if lab.is_empty() { "BROKER_ADMIN_TOKEN" } else { "BROKER_API_TOKEN" };
        let configured = [
            (!lab.is_empty() || !admin.is_empty()).then_some(of_environment),
            path.is_some().then_some("TOKENS_FILE"),
            id.is_some().then_some("TOKENS_SECRET"),
        ];
        let mut configured = configured.into_iter().flatten();
        let first = configured.next();
        for second in configured {
            let first = first.unwrap_or_default();
            settings
                .mistake(second, &format!("is set beside {first}: keep one of the two sources of tokens"));
        }
        match (path, id) {
            (Some(path), None) => Self::of_file(settings, path.into(), file_check_period),
            (None, Some(id)) => Self::of_secret(settings, &id, secret_check_period),
            _ => {
                let mut all = entries(&lab, Role::Lab, "BROKER_API_TOKEN", settings);
                all.extend(entries(&admin, Role::Admin, "BROKER_ADMIN_TOKEN", settings));
                let first =
                    TokenSet::new(all).map_err(|problem| settings.mistake("BROKER_API_TOKEN", &problem));
                Self { list: None, first: first.unwrap_or_default() }
            }
        }
    }

    fn of_file(settings: &mut Settings<'_>, path: PathBuf, check_period: Duration) -> Self {
        let bytes = read_file(&path);
        let first_digest = bytes.as_deref().ok().map(fingerprint);
        let first = bytes.and_then(|bytes| file::parse(&bytes)).and_then(TokenSet::new);
        let first = first.map_err(|problem| settings.mistake("TOKENS_FILE", &problem)).unwrap_or_default();
        let list = TokenList { source: ListSource::File(path), check_period, first_digest };
        Self { list: Some(list), first }
    }

    fn of_secret(settings: &mut Settings<'_>, id: &str, check_period: Duration) -> Self {
        let id = SecretId::parse(id).map_err(|problem| settings.mistake("TOKENS_SECRET", &problem));
        let list = |id| TokenList { source: ListSource::Secret(id), check_period, first_digest: None };
        Self { list: id.ok().map(list), first: TokenSet::default() }
    }

    /// Reads the secret, if one is named. Once, before the ingress is made.
    ///
    /// # Errors
    /// When it cannot be read, or is no list of tokens.
    pub async fn fetch(&mut self, secrets: Option<&dyn Secrets>) -> Result<(), BadTokens> {
        let Some(TokenList { source: ListSource::Secret(id), first_digest, .. }) = &mut self.list else {
            return Ok(());
        };
        let bad = |problem| BadTokens { variable: "TOKENS_SECRET", problem };
        let bytes = read_secret(secrets, id).await.map_err(bad)?;
        self.first = file::parse(&bytes).and_then(TokenSet::new).map_err(bad)?;
        *first_digest = Some(fingerprint(&bytes));
        Ok(())
    }
}

// === impl ListSource ===

impl ListSource {
    /// What it is called in what operators read.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Secret(_) => "secret",
        }
    }
}

/// What the secret holds, or why that cannot be known.
pub(super) async fn read_secret(secrets: Option<&dyn Secrets>, id: &SecretId) -> Result<Vec<u8>, String> {
    let secrets = secrets.ok_or_else(|| "cannot be read: there is no store of secrets".to_owned())?;
    secrets.read(id).await.map_err(|error| format!("cannot be read: {error}"))
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
fn entries(secrets: &[Secret], role: Role, variable: &str, settings: &mut Settings<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (secret, place) in secrets.iter().zip(1_usize..) {
        match entry(secret, role, place) {
            Ok(entry) => entries.push(entry),
            Err(problem) => settings.mistake(variable, &problem),
        }
    }
    entries
}

fn entry(secret: &Secret, role: Role, place: usize) -> Result<Entry, String> {
    let (name, token) = match secret.expose().split_once(':') {
        Some((name, token)) => (name.to_owned(), token),
        None if place == 1 => (role.as_str().to_owned(), secret.expose()),
        None => (format!("{}-{place}", role.as_str()), secret.expose()),
    };
    // A token that no header can carry would lock its holder out without a word.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("may hold only visible ASCII characters".to_owned());
    }
    let caller = Principal::of(parse_name(&name)?, &[role]);
    Ok(Entry { digest: fingerprint(token.as_bytes()), caller: Arc::new(caller) })
}
