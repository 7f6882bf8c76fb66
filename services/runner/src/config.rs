//! The settings of a runner, and what this machine is.

use crate::capacity::Demand;
use domain::NodeId;
use domain::ids::NODE_ID_BYTES_MAX;
use runtime::settings::Settings;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Processor time that one processor is offered as: sandboxes wait for their users most of the time, so four of them share
/// one.
const CPU_MILLI_PER_PROCESSOR: u64 = 4 * 1_000;
/// The part of the machine's memory that is offered, in hundredths; the rest is for the system and the runner.
const MEMORY_PERCENT: u64 = 75;
/// Memory that is offered if the machine does not say how much it has.
const MEMORY_MB_UNKNOWN: u64 = 2_048;
/// Sandboxes that are offered: each is a few processes, folders and mounts, which the kernel handles well up to here.
const SANDBOXES: u32 = 200;
/// Requests to the node at once: as many as its sandboxes may run commands at a time on a usual machine.
const IN_FLIGHT: u32 = 64;
/// Where Linux says how this host is called.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";
/// Where Linux says how much memory there is.
const MEMORY_FILE: &str = "/proc/meminfo";
/// The node if its host has no name that can be used.
const NODE_UNNAMED: &str = "node";

/// The settings of a runner.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node.
    pub node: NodeId,
    /// The folder of the durable state. It belongs to one runner.
    pub data: PathBuf,
    /// The folder of the images, by name.
    pub images: PathBuf,
    /// What all containers together may use.
    pub offered: Demand,
    /// Most concurrent requests to the node.
    pub in_flight_max: usize,
}

// === impl Config ===

impl Config {
    /// Reads the settings of a runner.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let named = settings.optional(
            "NODE_NAME",
            "name of the node, unique in the fleet; without it, the host name up to its first dot",
        );
        let node = match named.map(|name| NodeId::parse(&name)) {
            Some(Ok(node)) => Some(node),
            Some(Err(problem)) => {
                settings.mistake("NODE_NAME", &problem.to_string());
                None
            }
            None => None,
        };
        let data = settings.text(
            "RUNNER_DATA",
            "/var/lib/sandbox-broker/runner",
            "folder of the durable state of a runner; it belongs to one runner",
        );
        // Engines want paths that mean the same everywhere.
        let data = std::path::absolute(&data).unwrap_or_else(|_| PathBuf::from(data));
        let images = settings.optional(
            "RUNNER_IMAGES",
            "folder of the images of a node: folders and tar archives by name; without it, `images` in RUNNER_DATA",
        );
        let cpu_milli = settings.number(
            "RUNNER_CPU_MILLI_MAX",
            0,
            0..=10_000_000,
            "processor time that all sandboxes of a node together may be promised, in thousandths of a processor; 0 stands for four times its processors, because sandboxes are mostly idle",
        );
        let memory_mb = settings.number(
            "RUNNER_MEMORY_MB_MAX",
            0,
            0..=100_000_000,
            "memory that all sandboxes of a node together may be promised, in MiB; 0 stands for three quarters of its memory",
        );
        let sandboxes = settings.number(
            "RUNNER_SANDBOXES_MAX",
            u64::from(SANDBOXES),
            1..=10_000,
            "maximum number of sandboxes of a node",
        );
        let in_flight_max = settings.size(
            "RUNNER_IN_FLIGHT_MAX",
            IN_FLIGHT,
            1..=4_096,
            "maximum number of concurrent requests to a node; a further one is refused at once and can be repeated",
        );
        let offered = Demand {
            cpu_milli: if cpu_milli == 0 { machine_cpu_milli() } else { cpu_milli },
            memory_mb: if memory_mb == 0 { machine_memory_mb() } else { memory_mb },
            sandboxes,
        };
        Self {
            node: node.or_else(host_node).unwrap_or_else(unnamed_node),
            images: images.map_or_else(|| data.join("images"), PathBuf::from),
            data,
            offered,
            in_flight_max,
        }
    }

    /// One of `count` nodes on this machine, which share what it offers; each has a folder of its own.
    #[must_use]
    pub fn part(&self, node: NodeId, count: u16) -> Self {
        let share = |whole: u64| whole / u64::from(count.max(1));
        let Demand { cpu_milli, memory_mb, sandboxes } = self.offered;
        Self {
            data: self.data.join(node.as_str()),
            node,
            images: self.images.clone(),
            offered: Demand {
                cpu_milli: share(cpu_milli),
                memory_mb: share(memory_mb),
                sandboxes: share(sandboxes).max(1),
            },
            in_flight_max: self.in_flight_max,
        }
    }
}

/// The node of a host with that name; none if nothing of the name can be used.
fn node_of_host(host: &str) -> Option<NodeId> {
    let first = host.trim().split('.').next().unwrap_or_default();
    let is_allowed = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    let name: String = first.chars().map(|char| if is_allowed(char) { char } else { '-' }).collect();
    // Only ASCII is left.
    let name = name.get(..NODE_ID_BYTES_MAX).unwrap_or(&name).trim_matches('-');
    NodeId::parse(name).ok()
}

/// What a line of `/proc/meminfo` such as `MemTotal: 1024 kB` says, in MiB.
fn total_memory_mb(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1_024)
}

fn host_node() -> Option<NodeId> {
    node_of_host(&std::fs::read_to_string(HOST_NAME_FILE).ok()?)
}

fn unnamed_node() -> NodeId {
    #[expect(clippy::expect_used, reason = "the constant is a valid name")]
    NodeId::parse(NODE_UNNAMED).expect("a valid name")
}

fn machine_cpu_milli() -> u64 {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    CPU_MILLI_PER_PROCESSOR.saturating_mul(processors as u64)
}

fn machine_memory_mb() -> u64 {
    let total = std::fs::read_to_string(MEMORY_FILE).ok().and_then(|text| total_memory_mb(&text));
    total.map_or(MEMORY_MB_UNKNOWN, |total| total.saturating_mul(MEMORY_PERCENT) / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, runtime::settings::Mistakes> {
        let env: BTreeMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let config = Config::read(&mut settings);
        settings.finish(config)
    }

    #[test]
    fn node_is_named_after_its_host() {
        for (host, expected) in [
            ("alpha.example.org\n", Some("alpha")),
            ("alpha", Some("alpha")),
            ("böse host", Some("b-se-host")),
            ("", None),
            (".example.org", None),
            ("-", None),
            (&"x".repeat(80), Some(&*"x".repeat(NODE_ID_BYTES_MAX))),
        ] {
            assert_eq!(node_of_host(host).as_ref().map(NodeId::as_str), expected, "{host:?}");
        }
        assert_eq!(unnamed_node().as_str(), NODE_UNNAMED);
    }

    #[test]
    fn memory_of_the_machine_is_read() {
        assert_eq!(total_memory_mb("MemTotal:       16384000 kB\nMemFree: 1 kB\n"), Some(16_000));
        assert_eq!(total_memory_mb("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn defaults_come_from_the_machine() {
        let config = read(&[("RUNNER_DATA", "/data")]).unwrap();
        assert_eq!(config.images, PathBuf::from("/data/images"));
        let relative = read(&[("RUNNER_DATA", "data")]).unwrap();
        assert_eq!(relative.data, std::env::current_dir().unwrap().join("data"));
        assert!(config.offered.cpu_milli >= CPU_MILLI_PER_PROCESSOR && config.offered.memory_mb > 0);
        assert_eq!(config.offered.sandboxes, 200);
    }

    #[test]
    fn settings_are_taken_and_mistakes_are_reported_together() {
        let config = read(&[
            ("NODE_NAME", "n-7"),
            ("RUNNER_IMAGES", "/images"),
            ("RUNNER_CPU_MILLI_MAX", "500"),
            ("RUNNER_MEMORY_MB_MAX", "600"),
            ("RUNNER_SANDBOXES_MAX", "3"),
            ("RUNNER_IN_FLIGHT_MAX", "9"),
        ])
        .unwrap();
        assert_eq!((config.node.as_str(), config.images.as_path()), ("n-7", std::path::Path::new("/images")));
        assert_eq!(config.offered, Demand { cpu_milli: 500, memory_mb: 600, sandboxes: 3 });
        assert_eq!(config.in_flight_max, 9);
        let mistakes = read(&[("NODE_NAME", "a.b"), ("RUNNER_SANDBOXES_MAX", "0")]).unwrap_err();
        assert_eq!(mistakes.0.len(), 2, "{mistakes}");
    }
}
