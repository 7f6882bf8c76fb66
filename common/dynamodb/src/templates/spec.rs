//! What a version of a template says, as attributes.

use crate::attributes::{Fields, Item, number, text};
use aws_sdk_dynamodb::types::AttributeValue;
use domain::TemplateSpec;
use domain::pool::PoolKind;
use domain::template::{Image, Readiness};
use ports::store::StoreError;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

const KIND: &str = "kind";
const IMAGE: &str = "image";
const COMMAND: &str = "command";
const CPU_MILLI: &str = "cpu_milli";
const MEMORY_MB: &str = "memory_mb";
const TMPFS_MB: &str = "tmpfs_mb";
const WORKSPACE_MB: &str = "workspace_mb";
const WORKSPACE: &str = "workspace";
const PIDS: &str = "pids";
/// A list of numbers.
const PORTS: &str = "ports";
/// A map of texts.
const ENV: &str = "env";
const USER: &str = "user";
const NETWORK: &str = "network";
/// A map with the kind, and a command, a port or a path.
const READINESS: &str = "readiness";
const PORT: &str = "port";
const PATH: &str = "path";
const READY_S: &str = "ready_s";
const ISOLATION: &str = "isolation";
const RUNTIME: &str = "runtime";
const UNTRUSTED: &str = "untrusted";
const SUPERVISOR: &str = "supervisor";

pub(super) fn encode(spec: &TemplateSpec) -> impl Iterator<Item = (&'static str, AttributeValue)> {
    let TemplateSpec {
        kind,
        image,
        command,
        cpu_milli,
        memory_mb,
        tmpfs_mb,
        workspace_mb,
        workspace,
        pids,
        ports,
        env,
        user,
        network,
        readiness,
        ready_within,
        isolation,
        runtime,
        is_untrusted,
        has_supervisor,
    } = spec;
    let variables = env.iter().map(|(name, value)| (name.clone(), text(value)));
    let ports = ports.iter().map(|port| number(*port)).collect();
    let always = [
        (KIND, text(kind.as_str())),
        (IMAGE, text(image.as_str())),
        (COMMAND, words(command)),
        (CPU_MILLI, number(*cpu_milli)),
        (MEMORY_MB, number(*memory_mb)),
        (TMPFS_MB, number(*tmpfs_mb)),
        (WORKSPACE_MB, number(*workspace_mb)),
        (WORKSPACE, text(workspace)),
        (PIDS, number(*pids)),
        (PORTS, AttributeValue::L(ports)),
        (ENV, AttributeValue::M(variables.collect())),
        (USER, number(*user)),
        (NETWORK, text(<&str>::from(network))),
        (READINESS, AttributeValue::M(encode_readiness(readiness))),
        (READY_S, number(ready_within.as_secs())),
        (ISOLATION, text(<&str>::from(isolation))),
        (UNTRUSTED, AttributeValue::Bool(*is_untrusted)),
        (SUPERVISOR, AttributeValue::Bool(*has_supervisor)),
    ];
    always.into_iter().chain(runtime.map(|runtime| (RUNTIME, text(<&str>::from(runtime)))))
}

pub(super) fn decode(fields: Fields<'_>) -> Result<TemplateSpec, StoreError> {
    Ok(TemplateSpec {
        kind: named::<PoolKind>(fields, KIND)?,
        image: Image::named(fields.text(IMAGE)?),
        command: fields.words(COMMAND)?.into_iter().map(str::to_owned).collect(),
        cpu_milli: fields.count(CPU_MILLI)?,
        memory_mb: fields.count(MEMORY_MB)?,
        tmpfs_mb: fields.count(TMPFS_MB)?,
        workspace_mb: fields.count(WORKSPACE_MB)?,
        workspace: fields.text(WORKSPACE)?.to_owned(),
        pids: fields.count(PIDS)?,
        ports: fields.numbers(PORTS)?.into_iter().collect(),
        env: decode_env(fields)?,
        user: fields.count(USER)?,
        network: named(fields, NETWORK)?,
        readiness: decode_readiness(fields)?,
        ready_within: Duration::from_secs(fields.number(READY_S)?),
        isolation: named(fields, ISOLATION)?,
        runtime: fields.has(RUNTIME).then(|| named(fields, RUNTIME)).transpose()?,
        is_untrusted: fields.switch(UNTRUSTED)?,
        has_supervisor: fields.switch(SUPERVISOR)?,
    })
}

fn words(words: &[String]) -> AttributeValue {
    AttributeValue::L(words.iter().map(text).collect())
}

fn named<T: FromStr>(fields: Fields<'_>, attribute: &'static str) -> Result<T, StoreError> {
    fields.text(attribute)?.parse().map_err(|_| fields.corrupt(attribute, "is unknown to this build"))
}

fn decode_env(fields: Fields<'_>) -> Result<BTreeMap<String, String>, StoreError> {
    let variables = fields.optional_map(ENV)?.into_iter().flatten();
    let texts = variables.map(|(name, value)| match value {
        AttributeValue::S(value) => Ok((name.clone(), value.clone())),
        _ => Err(fields.corrupt(ENV, "holds a value that is not a string")),
    });
    texts.collect()
}

fn encode_readiness(readiness: &Readiness) -> Item {
    let mut map = Item::from([(KIND.to_owned(), text(readiness.as_str()))]);
    match readiness {
        Readiness::Running => {}
        Readiness::Exec(command) => drop(map.insert(COMMAND.to_owned(), words(command))),
        Readiness::Http { port, path } => {
            map.insert(PORT.to_owned(), number(*port));
            map.insert(PATH.to_owned(), text(path));
        }
        Readiness::Tcp { port } => drop(map.insert(PORT.to_owned(), number(*port))),
    }
    map
}

fn decode_readiness(fields: Fields<'_>) -> Result<Readiness, StoreError> {
    let none = Item::default();
    let map = fields.within(fields.optional_map(READINESS)?.unwrap_or(&none));
    let port =
        || u16::try_from(map.number(PORT)?).map_err(|_| fields.corrupt(READINESS, "has no valid port"));
    Ok(match map.text(KIND)? {
        "running" => Readiness::Running,
        "exec" => Readiness::Exec(map.words(COMMAND)?.into_iter().map(str::to_owned).collect()),
        "http" => Readiness::Http { port: port()?, path: map.text(PATH)?.to_owned() },
        "tcp" => Readiness::Tcp { port: port()? },
        _ => return Err(fields.corrupt(READINESS, "is unknown to this build")),
    })
}
