//! What a template says, on the wire.

use domain::pool::PoolKind;
use domain::template::{Image, Isolation, Network, Readiness, Runtime};
use domain::{InvalidTemplate, TemplateSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;
use utoipa::ToSchema;

/// What a template says. A field that is left out has its default; a reply has all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateSettings {
    /// `container` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `host`, or the name of a folder or an archive among the images of the nodes; for isolation `container` also a
    /// name in a registry.
    pub image: String,
    /// The main command; that of the image, or none, if it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Processor time in thousandths of a processor, 100 to 8,000; 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Memory and swap together in MiB, 64 to 16,384; 512 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Folders in memory in MiB, which count as memory; 64 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tmpfs_mb: Option<u32>,
    /// The workspace in MiB, 1 to 102,400; 1,024 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mb: Option<u32>,
    /// Where the workspace is; `/workspace` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Processes and threads, 8 to 32,768; 128 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Ports that are reachable from outside, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// The environment of every command, at most 64 variables. It is no place for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The user id of commands; 1,000 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// What a sandbox may reach after its claim: `none` (the default), `internal` or `open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// When a sandbox can be handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ReadinessSettings>,
    /// How strongly sandboxes are separated: `process` (the default) or `container`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// What runs a container: `runc`, `runsc` or `kata`; the choice of the node if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Whether sandboxes run code that may attack the kernel; no by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted: Option<bool>,
    /// Whether the supervisor of the fleet is process 1; yes by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<bool>,
}

/// When a sandbox can be handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadinessSettings {
    /// `running` (as soon as it runs; the default), `exec` (when `command` succeeds), `http` (when `path` of `port`
    /// answers with 2xx) or `tcp` (when `port` accepts connections).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The command of `exec`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The port of `http` and `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path of `http`; `/` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long it may take, in seconds, 1 to 600; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// The value of a closed set, or its default.
fn named<T>(field: &'static str, name: Option<&str>, default: T) -> Result<T, InvalidTemplate>
where
    T: FromStr + strum::IntoEnumIterator + Into<&'static str>,
{
    let Some(name) = name else { return Ok(default) };
    name.parse()
        .map_err(|_| InvalidTemplate { field, problem: format!("must be one of {}", crate::names::<T>()) })
}

// === impl TemplateSettings ===

impl TemplateSettings {
    /// What these settings say, checked.
    ///
    /// # Errors
    /// [`InvalidTemplate`] with the first mistake.
    pub fn spec(&self) -> Result<TemplateSpec, InvalidTemplate> {
        let Self {
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
            isolation,
            runtime,
            untrusted,
            supervisor,
        } = self;
        let invalid = |field, problem: &str| InvalidTemplate { field, problem: problem.to_owned() };
        let rest = TemplateSpec::of_image(Image::named(image));
        let no_readiness = ReadinessSettings::default();
        let readiness = readiness.as_ref().unwrap_or(&no_readiness);
        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
        if distinct.len() < ports.len() {
            return Err(invalid("ports", "must not name a port twice"));
        }
        let spec = TemplateSpec {
            kind: match kind {
                Some(kind) => PoolKind::parse(kind).ok_or_else(|| invalid("kind", "must be `container`"))?,
                None => rest.kind,
            },
            command: command.clone(),
            cpu_milli: cpu_milli.unwrap_or(rest.cpu_milli),
            memory_mb: memory_mb.unwrap_or(rest.memory_mb),
            tmpfs_mb: tmpfs_mb.unwrap_or(rest.tmpfs_mb),
            workspace_mb: workspace_mb.unwrap_or(rest.workspace_mb),
            workspace: workspace.clone().unwrap_or(rest.workspace),
            pids: pids.unwrap_or(rest.pids),
            ports: distinct,
            env: env.clone(),
            user: user.unwrap_or(rest.user),
            network: named::<Network>("network", network.as_deref(), rest.network)?,
            readiness: readiness.readiness()?,
            ready_within: readiness
                .timeout_seconds
                .map_or(rest.ready_within, |s| Duration::from_secs(s.into())),
            isolation: named::<Isolation>("isolation", isolation.as_deref(), rest.isolation)?,
            runtime: match runtime {
                Some(name) => Some(named::<Runtime>("runtime", Some(name), Runtime::Runc)?),
                None => None,
            },
            is_untrusted: untrusted.unwrap_or(rest.is_untrusted),
            has_supervisor: supervisor.unwrap_or(rest.has_supervisor),
            image: rest.image,
        };
        spec.check()?;
        Ok(spec)
    }

    /// All settings of a template.
    #[must_use]
    pub fn of(spec: &TemplateSpec) -> Self {
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
        let name = |name: &'static str| Some(name.to_owned());
        Self {
            kind: name(kind.as_str()),
            image: image.as_str().to_owned(),
            command: command.clone(),
            cpu_milli: Some(*cpu_milli),
            memory_mb: Some(*memory_mb),
            tmpfs_mb: Some(*tmpfs_mb),
            workspace_mb: Some(*workspace_mb),
            workspace: Some(workspace.clone()),
            pids: Some(*pids),
            ports: ports.iter().copied().collect(),
            env: env.clone(),
            user: Some(*user),
            network: name(network.into()),
            readiness: Some(ReadinessSettings::of(readiness, *ready_within)),
            isolation: name(isolation.into()),
            runtime: runtime.and_then(|runtime| name(runtime.into())),
            untrusted: Some(*is_untrusted),
            supervisor: Some(*has_supervisor),
        }
    }
}

// === impl ReadinessSettings ===

impl ReadinessSettings {
    fn readiness(&self) -> Result<Readiness, InvalidTemplate> {
        let Self { kind, command, port, path, timeout_seconds: _ } = self;
        let invalid = |field, problem: &str| Err(InvalidTemplate { field, problem: problem.to_owned() });
        let kind = kind.as_deref().unwrap_or("running");
        if !command.is_empty() && kind != "exec" {
            return invalid("readiness.command", "belongs to readiness `exec`");
        }
        if path.is_some() && kind != "http" {
            return invalid("readiness.path", "belongs to readiness `http`");
        }
        let port = match (kind, port) {
            ("http" | "tcp", Some(port)) => *port,
            ("http" | "tcp", None) => return invalid("readiness.port", "must be set"),
            (_, Some(_)) => return invalid("readiness.port", "belongs to readiness `http` and `tcp`"),
            (_, None) => 0,
        };
        Ok(match kind {
            "running" => Readiness::Running,
            "exec" => Readiness::Exec(command.clone()),
            "http" => Readiness::Http { port, path: path.clone().unwrap_or_else(|| "/".to_owned()) },
            "tcp" => Readiness::Tcp { port },
            _ => return invalid("readiness.kind", "must be one of running, exec, http, tcp"),
        })
    }

    fn of(readiness: &Readiness, within: Duration) -> Self {
        let rest = Self {
            kind: Some(readiness.as_str().to_owned()),
            timeout_seconds: Some(u32::try_from(within.as_secs()).unwrap_or(u32::MAX)),
            ..Self::default()
        };
        match readiness {
            Readiness::Running => rest,
            Readiness::Exec(command) => Self { command: command.clone(), ..rest },
            Readiness::Http { port, path } => Self { port: Some(*port), path: Some(path.clone()), ..rest },
            Readiness::Tcp { port } => Self { port: Some(*port), ..rest },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> TemplateSettings {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn settings_round_trip_through_the_spec() {
        let text = r#"{"kind":"container","image":"python:3.12","command":["python3"],"cpu_milli":250,"memory_mb":128,
            "tmpfs_mb":16,"workspace_mb":2048,"workspace":"/home/lab","pids":64,"ports":[80,443],
            "env":{"LANG":"C"},"user":0,"network":"open","isolation":"container","runtime":"kata","untrusted":true,
            "readiness":{"kind":"http","port":80,"path":"/health","timeout_seconds":90},"supervisor":false}"#;
        assert_eq!(TemplateSettings::of(&settings(text).spec().unwrap()), settings(text));
        for readiness in [
            r#"{"kind":"running","timeout_seconds":1}"#,
            r#"{"kind":"exec","command":["true"],"timeout_seconds":1}"#,
            r#"{"kind":"tcp","port":22,"timeout_seconds":1}"#,
        ] {
            let whole = settings(&format!(r#"{{"image":"host","readiness":{readiness}}}"#));
            assert_eq!(TemplateSettings::of(&whole.spec().unwrap()).readiness, whole.readiness);
        }
        assert_eq!(settings(r#"{"image":"host"}"#).spec().unwrap(), TemplateSpec::of_image(Image::Host));
    }

    #[test]
    fn mistakes_name_their_field() {
        let field = |rest: &str| {
            let settings = settings(&format!(r#"{{"image":"host",{rest}}}"#));
            settings.spec().map_err(|mistake| mistake.field)
        };
        for (rest, expected) in [
            (r#""kind":"vm""#, "kind"),
            (r#""kind":"stack""#, "kind"),
            (r#""cpu_milli":50"#, "cpu_milli"),
            (r#""ports":[80,80],"network":"open""#, "ports"),
            (r#""network":"cellular""#, "network"),
            (r#""isolation":"vm""#, "isolation"),
            (r#""runtime":"crun""#, "runtime"),
            (r#""readiness":{"kind":"grpc"}"#, "readiness.kind"),
            (r#""readiness":{"kind":"tcp"}"#, "readiness.port"),
            (r#""readiness":{"port":80}"#, "readiness.port"),
            (r#""readiness":{"command":["true"]}"#, "readiness.command"),
            (r#""readiness":{"kind":"tcp","port":80,"path":"/"}"#, "readiness.path"),
            (r#""readiness":{"timeout_seconds":0}"#, "readiness.timeout_seconds"),
        ] {
            assert_eq!(field(rest), Err(expected), "{rest}");
        }
        for misspelled in
            [r#"{"image":"host","cpus":1}"#, r#"{"image":"host","readiness":{"type":"tcp"}}"#, "{}"]
        {
            assert!(serde_json::from_str::<TemplateSettings>(misspelled).is_err(), "{misspelled}");
        }
    }
}
