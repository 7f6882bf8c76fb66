//! The credentials of a role. Files are read at every attempt to connect, so that renewed credentials need no restart:
//! the server closes a connection whose credentials it no longer accepts, and the next attempt uses the new ones.

use super::{NatsConfig, ROLE_IN_USER, failed};
use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use ports::bus::BusError;
use runtime::settings::{Secret, Settings};
use std::path::PathBuf;

const JWT_BEGIN: &str = "-----BEGIN NATS USER JWT-----";
const SEED_BEGIN: &str = "-----BEGIN USER NKEY SEED-----";

/// Credentials for the server.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    /// A user with a password.
    Password { user: String, password: Secret },
    /// A user with a password in a file.
    PasswordFile { user: String, file: PathBuf },
    /// A JWT of the user and its key, in a file.
    File(PathBuf),
}

/// The servers, and the credentials that the role is configured to use.
pub(super) struct Login {
    pub(super) url: String,
    pub(super) credentials_file: Option<PathBuf>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<PathBuf>,
}

// === impl Login ===

impl Login {
    pub(super) fn read(settings: &mut Settings<'_>) -> Self {
        let url = settings.text(
            "NATS_URL",
            "nats://127.0.0.1:4222",
            "addresses of the NATS servers, separated by commas",
        );
        let credentials_file = settings
            .optional(
                "NATS_CREDENTIALS_FILE",
                "credentials file of this role; read at every attempt to connect",
            )
            .map(PathBuf::from);
        let mut user = settings
            .optional("NATS_USER", "user name of this role; `{role}` in it stands for the role's name");
        let mut password = settings.optional("NATS_PASSWORD", "password of that user").map(Secret::new);
        let password_file = settings
            .optional(
                "NATS_PASSWORD_FILE",
                "file with that password, instead of `NATS_PASSWORD`; read at every attempt to connect",
            )
            .map(PathBuf::from);
        // The client library ignores credentials in an address.
        if let Some((in_url, of_url)) = credentials_in(&url) {
            if user.is_some() || password.is_some() {
                settings.mistake("NATS_URL", "names a user, and so does NATS_USER; leave one of them out");
            }
            user = Some(in_url);
            password = Some(Secret::new(of_url));
        }
        if password.is_some() && password_file.is_some() {
            settings
                .mistake("NATS_PASSWORD_FILE", "and NATS_PASSWORD exclude each other; leave one of them out");
        }
        if user.is_some() != (password.is_some() || password_file.is_some()) {
            settings
                .mistake("NATS_USER", "and NATS_PASSWORD (or NATS_PASSWORD_FILE) have to be set together");
        }
        Self { url, credentials_file, user, password, password_file }
    }
}

// === impl Credentials ===

impl Credentials {
    /// The credentials of the role `name`; none if the server needs none.
    pub(super) fn of(config: &NatsConfig, name: &str) -> Option<Self> {
        if let Some(file) = &config.credentials_file {
            return Some(Self::File(file.clone()));
        }
        let user = config.user.as_ref()?.replace(ROLE_IN_USER, name);
        match (&config.password_file, &config.password) {
            (Some(file), _) => Some(Self::PasswordFile { user, file: file.clone() }),
            (None, Some(password)) => Some(Self::Password { user, password: password.clone() }),
            (None, None) => None,
        }
    }

    /// Fails if no attempt to connect could succeed.
    pub(super) async fn check(&self) -> Result<(), BusError> {
        let operation = match self {
            Self::File(_) => "read NATS_CREDENTIALS_FILE",
            Self::PasswordFile { .. } | Self::Password { .. } => "read NATS_PASSWORD_FILE",
        };
        self.auth(b"nonce").await.map(|_| ()).map_err(failed(operation))
    }

    /// The answer to the server's challenge `nonce`.
    pub(super) async fn auth(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(password.expose().to_owned());
            }
            Self::PasswordFile { user, file } => {
                let password = tokio::fs::read_to_string(file).await.map_err(AuthError::new)?;
                auth.username = Some(user.clone());
                auth.password = Some(password.trim().to_owned());
            }
            Self::File(file) => {
                let text = tokio::fs::read_to_string(file).await.map_err(AuthError::new)?;
                let jwt = section(&text, JWT_BEGIN).ok_or_else(|| AuthError::new("no user JWT"))?;
                let seed = section(&text, SEED_BEGIN).ok_or_else(|| AuthError::new("no NKEY seed"))?;
                let key = KeyPair::from_seed(seed).map_err(|_| AuthError::new("no valid NKEY seed"))?;
                auth.jwt = Some(jwt.to_owned());
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            }
        }
        Ok(auth)
    }
}

/// The line after that one.
fn section<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.lines().map(str::trim).find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

/// User and password of the first address that contains them (`nats://user:password@host`), unchanged.
fn credentials_in(addresses: &str) -> Option<(String, String)> {
    addresses.split(',').find_map(|address| {
        let (_, rest) = address.split_once("://")?;
        let (credentials, _) = rest.rsplit_once('@')?;
        let (user, password) = credentials.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credential_files_are_reread_at_every_connect() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "first\n").unwrap();
        let credentials = Credentials::PasswordFile { user: "reaper".to_owned(), file: file.clone() };
        assert_eq!(credentials.auth(b"").await.unwrap().password.as_deref(), Some("first"));
        std::fs::write(&file, "second\n").unwrap();
        assert_eq!(credentials.auth(b"").await.unwrap().password.as_deref(), Some("second"));
        std::fs::remove_file(&file).unwrap();
        assert!(credentials.auth(b"").await.is_err());
    }

    #[tokio::test]
    async fn nonce_is_signed_with_the_nkey_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("role.creds");
        let key = KeyPair::new_user();
        let text = format!(
            "{JWT_BEGIN}\neyJ0.a.b\n------END NATS USER JWT------\n\n*** secret ***\n\n{SEED_BEGIN}\n{}\n------END USER NKEY SEED------\n",
            key.seed().unwrap()
        );
        std::fs::write(&file, text).unwrap();
        let auth = Credentials::File(file.clone()).auth(b"nonce").await.unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("eyJ0.a.b"));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        std::fs::write(&file, format!("{JWT_BEGIN}\n------END NATS USER JWT------\n")).unwrap();
        let error = Credentials::File(file).check().await.unwrap_err();
        assert!(error.to_string().contains("NATS_CREDENTIALS_FILE"), "{error}");
    }
}
