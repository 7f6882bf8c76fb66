//! `broker context`: how to reach each of an operator's fleets, by name. The file holds addresses and the paths of files
//! with secrets, never a secret.

use crate::output::{Format, Shown, columns, or_none};
use anyhow::{Context as _, bail};
use clap::{ArgGroup, Subcommand};
use runtime::settings::Env;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod in_use;

pub(crate) use in_use::{over, transport};

/// Most bytes of a name.
const NAME_BYTES_MAX: usize = 64;

/// The arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Add a fleet. The first one is used at once.
    Add {
        /// Its name: letters, digits, '-', '_' and '.'.
        #[arg(value_parser = parse_name)]
        name: String,
        #[command(flatten)]
        fleet: Fleet,
    },
    /// Use this fleet from now on.
    Use {
        /// Its name.
        name: String,
    },
    /// List the fleets.
    List,
    /// Remove a fleet from the list.
    Remove {
        /// Its name.
        name: String,
    },
}

/// How to reach a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[command(group(ArgGroup::new("address").args(["nats_url", "http_url"]).required(true).multiple(true)))]
#[group(skip)]
struct Fleet {
    /// Addresses of its NATS servers, separated by commas.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    #[serde(skip_serializing_if = "Option::is_none")]
    nats_url: Option<String>,
    /// Prefix of its subjects, if it has another one than the default.
    #[arg(long, value_name = "PREFIX", requires = "nats_url")]
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_prefix: Option<String>,
    /// Credentials file for NATS.
    #[arg(long, value_name = "FILE", requires = "nats_url", conflicts_with = "user")]
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials_file: Option<PathBuf>,
    /// User at NATS, with a password in a file.
    #[arg(long, value_name = "NAME", requires_all = ["nats_url", "password_file"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// File with the password of that user.
    #[arg(long, value_name = "FILE", requires = "user")]
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
    /// Address of its HTTP API, for `broker client`.
    #[arg(long, value_name = "URL", value_parser = parse_url, requires = "token_file")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http_url: Option<String>,
    /// File with a token for the HTTP API.
    #[arg(long, value_name = "FILE", requires = "http_url")]
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
}

/// The file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contexts {
    /// The name of the one in use.
    current: Option<String>,
    fleets: BTreeMap<String, Fleet>,
}

fn parse_name(name: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(name.to_owned())
    } else {
        Err(format!("must be 1 to {NAME_BYTES_MAX} ASCII letters, digits, '-', '_' and '.'"))
    }
}

fn parse_url(url: &str) -> Result<String, String> {
    if url.contains('@') {
        return Err("must contain no user and no password; name a file with them instead".to_owned());
    }
    Ok(url.to_owned())
}

// === impl Options ===

impl Options {
    /// Runs the subcommand and prints the result.
    ///
    /// # Errors
    /// A file that cannot be read or written; a name that is there already, or is not.
    pub(crate) fn run(self, env: &dyn Env) -> anyhow::Result<()> {
        let file = file_of(env).context("neither XDG_CONFIG_HOME nor HOME is set; set one of them")?;
        let mut contexts = Contexts::read(&file)?;
        let is_change = !matches!(self.command, Command::List);
        let line = contexts.change(self.command)?;
        if is_change {
            contexts.write(&file)?;
        }
        let shown = Shown::of(&contexts, line.map_or_else(|| contexts.table(), |line| line + "\n"))?;
        self.format.print(&shown);
        Ok(())
    }
}

// === impl Contexts ===

impl Contexts {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        match std::fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{shown} is no file of contexts; correct or remove it")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
        }
    }

    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let folder = file.parent().context("no folder for the contexts")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // A rename, so that no other process sees half a file.
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_string_pretty(self)? + "\n")
            .and_then(|()| std::fs::rename(&new, file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Carries out the subcommand; returns what it did, in words.
    fn change(&mut self, command: Command) -> anyhow::Result<Option<String>> {
        Ok(match command {
            Command::Add { name, .. } if self.fleets.contains_key(&name) => {
                bail!("there is a context {name} already; `broker context remove {name}` removes it")
            }
            Command::Add { name, fleet } => {
                self.fleets.insert(name.clone(), fleet.with_whole_paths()?);
                let current = self.current.get_or_insert_with(|| name.clone());
                Some(format!("{name} is added; {current} is in use"))
            }
            Command::Use { name } => {
                self.check(&name)?;
                self.current = Some(name.clone());
                Some(format!("{name} is in use"))
            }
            Command::Remove { name } => {
                self.check(&name)?;
                self.fleets.remove(&name);
                self.current.take_if(|current| *current == name);
                Some(format!("{name} is removed"))
            }
            Command::List => None,
        })
    }

    fn check(&self, name: &str) -> anyhow::Result<()> {
        if !self.fleets.contains_key(name) {
            let names: Vec<_> = self.fleets.keys().map(String::as_str).collect();
            bail!("there is no context {name}; there are: {}", names.join(", "));
        }
        Ok(())
    }

    fn table(&self) -> String {
        let rows = self.fleets.iter().map(|(name, fleet)| {
            let mark = if self.current.as_ref() == Some(name) { "*" } else { "" };
            let [nats, http] = [&fleet.nats_url, &fleet.http_url].map(|url| or_none(url.as_deref()));
            [mark.to_owned(), name.clone(), nats, http]
        });
        columns(["", "NAME", "NATS", "HTTP"], rows)
    }
}

// === impl Fleet ===

impl Fleet {
    /// The same in any working directory.
    fn with_whole_paths(mut self) -> std::io::Result<Self> {
        for path in [&mut self.credentials_file, &mut self.password_file, &mut self.token_file] {
            *path = path.take().map(std::path::absolute).transpose()?;
        }
        Ok(self)
    }
}

fn file_of(env: &dyn Env) -> Option<PathBuf> {
    // The standard has relative paths ignored.
    let configured = env.get("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = configured.or_else(|| Some(PathBuf::from(env.get("HOME")?).join(".config")))?;
    Some(folder.join("broker").join("contexts.json"))
}

#[cfg(test)]
mod tests;
