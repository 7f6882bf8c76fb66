//! `broker token`: makes a token and its line for the token file.

use anyhow::{Context as _, anyhow};
use contract::{Principal, Role, Scope};
use domain::{PoolName, TenantName};
use ingress::tokens::{file, fingerprint, parse_name};
use std::io::{IsTerminal as _, Read as _};

/// Longest token that is read from stdin, in bytes; a header may have a few thousand.
const TOKEN_BYTES_MAX: u64 = 1_024;
/// Shortest token, because a shorter one could be guessed from its digest.
const TOKEN_BYTES_MIN: usize = 32;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Name of the token, for logs and the history; each token needs a different one.
    #[arg(long)]
    name: String,
    /// Its roles: `lab`, `user`, `operator`, `admin` or `read-only`; several separated by commas.
    #[arg(long, value_delimiter = ',', required = true, value_parser = role)]
    scope: Vec<Role>,
    /// The tenant that it belongs to.
    #[arg(long, default_value_t, value_parser = tenant)]
    tenant: TenantName,
    /// The pools that it may use, separated by commas; all pools by default. For lab and user tokens only.
    #[arg(long, value_delimiter = ',', value_parser = pool)]
    pools: Vec<PoolName>,
    /// Read an existing token from stdin instead of making one; it has to be long and random.
    #[arg(long)]
    from_stdin: bool,
}

// === impl Options ===

impl Options {
    /// Prints the line to stdout, so that it can be appended to the file, and a new token to stderr.
    ///
    /// # Errors
    /// An invalid name, pools for an operator, a token that is too short or too long, no random bytes.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = parse_name(&self.name).map_err(|problem| anyhow!("--name: {problem}"))?;
        let token = if self.from_stdin { read_token()? } else { crate::data::fresh_token()? };
        let holder = Principal {
            tenant: self.tenant,
            scope: Scope::of(&self.pools),
            ..Principal::of(name, &self.scope)
        };
        let line = file::line(&holder, &fingerprint(token.as_bytes()))
            .map_err(|problem| anyhow!("--pools: {problem}"))?;
        println!("{line}");
        if !self.from_stdin {
            eprintln!("{token}");
            if std::io::stderr().is_terminal() {
                eprintln!(
                    "That is the token. It is shown now and never again; the line above goes into the file."
                );
            }
        }
        Ok(())
    }
}

fn read_token() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(TOKEN_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .context("stdin cannot be read as text")?;
    let token = text.trim();
    let is_fit = token.len() >= TOKEN_BYTES_MIN
        && u64::try_from(token.len()).is_ok_and(|bytes| bytes <= TOKEN_BYTES_MAX)
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_fit {
        return Err(anyhow!(
            "a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters; a shorter one could be guessed"
        ));
    }
    Ok(token.to_owned())
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| format!("must be one of {}", contract::names::<Role>()))
}

fn tenant(text: &str) -> Result<TenantName, String> {
    TenantName::parse(text).map_err(|problem| problem.to_string())
}

fn pool(text: &str) -> Result<PoolName, String> {
    PoolName::parse(text).map_err(|problem| problem.to_string())
}
