//! The context in use, for commands whose environment does not say how to reach NATS.

use super::{Contexts, Fleet, file_of};
use crate::transport;
use crate::up::Overlay;
use runtime::settings::Env;
use std::path::PathBuf;

/// Variables that say how to reach NATS. If the environment has one of them, it decides alone: credentials of one fleet
/// must not go to the server of another.
const NATS_VARIABLES: [&str; 6] = [
    "NATS_URL",
    "NATS_CREDENTIALS_FILE",
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_PASSWORD_FILE",
    "SUBJECT_PREFIX",
];

/// The fleet in use, if the environment says nothing about NATS.
fn in_use(env: &dyn Env) -> anyhow::Result<Option<Fleet>> {
    if NATS_VARIABLES.iter().any(|name| env.get(name).is_some()) {
        return Ok(None);
    }
    let Some(file) = file_of(env) else { return Ok(None) };
    let Contexts { current, mut fleets } = Contexts::read(&file)?;
    Ok(current.and_then(|name| fleets.remove(&name)))
}

/// The environment; where it says nothing about NATS, with the context in use.
///
/// # Errors
/// A file of contexts that cannot be read.
pub(crate) fn over(env: &dyn Env) -> anyhow::Result<Overlay<'_>> {
    Ok(with(env, in_use(env)?.unwrap_or_default()))
}

/// The environment with what `fleet` says about NATS.
fn with(env: &dyn Env, fleet: Fleet) -> Overlay<'_> {
    let mut overlay = Overlay::over(env);
    let Fleet { nats_url, subject_prefix, credentials_file, user, password_file, http_url: _, token_file: _ } =
        fleet;
    let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    for (name, value) in [
        ("NATS_URL", nats_url),
        ("SUBJECT_PREFIX", subject_prefix),
        ("NATS_CREDENTIALS_FILE", text(credentials_file)),
        ("NATS_USER", user),
        ("NATS_PASSWORD_FILE", text(password_file)),
    ] {
        if let Some(value) = value {
            overlay.set(name, value);
        }
    }
    overlay
}

/// The transport of `broker client`, with its environment: that of the arguments, else of the environment, else of the
/// context in use, over HTTP if that has a token.
///
/// # Errors
/// As for [`over`].
pub(crate) fn transport(
    options: transport::Options,
    env: &dyn Env,
) -> anyhow::Result<(transport::Options, Overlay<'_>)> {
    if options.http.is_some() || options.nats.is_some() {
        return Ok((options, Overlay::over(env)));
    }
    let mut fleet = in_use(env)?.unwrap_or_default();
    let (http, token_file) = (fleet.http_url.take(), fleet.token_file.take());
    let overlay = with(env, fleet);
    let nats = overlay.get("NATS_URL").filter(|_| http.is_none());
    Ok((transport::Options { http, token_file, nats, ..options }, overlay))
}
