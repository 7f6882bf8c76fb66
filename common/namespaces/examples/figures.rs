//! Measures the engine on this machine: `cargo run --release -p namespaces --features machine --example figures [FOLDER]`.
//!
//! Creation ends when the supervisor has answered. Two at a time: creations and removals by two tasks.

use domain::SandboxId;
use host::Publish;
use namespaces::{Config, Namespaces};
use ports::clock::SystemClock;
use ports::engine::{ContainerSpec, Engine as _, Image, Incarnation, Limits, Network, PublishedPort};
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sandboxes that are measured.
const COUNT: usize = 50;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let state = arguments
        .next()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("figures-{}", std::process::id())));
    let config = Config {
        fleet: "figures".to_owned(),
        state: state.clone(),
        data: state.join("data"),
        wrapper: "bwrap".into(),
        supervisor: supervisor_image::SUPERVISOR,
        publish: Publish { address: Ipv4Addr::LOCALHOST, ports: 30_000..=32_767 },
    };
    let engine = Arc::new(Namespaces::probe(config, Arc::new(SystemClock))?);
    println!("{:#?}", engine.info());

    for (network, ports) in [
        (Network::None, 0),
        (Network::None, 1),
        (Network::Internal, 0),
        (Network::Open, 0),
        (Network::Open, 1),
    ] {
        let (mut creations, mut attachments, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..COUNT {
            let (created, attached, removed) = cycle(&engine, &spec(network, ports)?).await?;
            creations.push(created);
            attachments.push(attached);
            removals.push(removed);
        }
        println!("network {network:?}, published ports: {ports}");
        print("create", creations);
        print("attach", attachments);
        print("remove", removals);
    }

    let began = Instant::now();
    let half = |engine: Arc<Namespaces>| async move {
        for _ in 0..COUNT / 2 {
            cycle(&engine, &spec(Network::None, 0)?).await?;
        }
        Ok::<_, Failure>(())
    };
    let (first, second) = (tokio::spawn(half(Arc::clone(&engine))), tokio::spawn(half(Arc::clone(&engine))));
    first.await??;
    second.await??;
    println!("two at a time: {:.0} cycles/s", COUNT as f64 / began.elapsed().as_secs_f64());

    let open = spec(Network::Open, 0)?;
    engine.create(&open).await?;
    engine.attach_network(&open.incarnation).await?;
    println!("memory with one open network: {:?}", kib()?);
    engine.remove(&open.incarnation).await?;

    let mut kept = Vec::new();
    let before = Instant::now();
    for _ in 0..COUNT {
        let spec = spec(Network::None, 0)?;
        engine.create(&spec).await?;
        kept.push(spec.incarnation);
    }
    println!("{COUNT} kept: {:.1?} each", before.elapsed() / u32::try_from(COUNT)?);
    println!("memory of all: {:?}", kib()?);
    let mut groups = 0;
    for incarnation in &kept {
        groups += engine.usage(incarnation).await?.memory_bytes.unwrap_or_default();
    }
    println!("memory of each by its group: {} KiB", groups / 1_024 / u64::try_from(COUNT)?);
    for incarnation in &kept {
        engine.remove(incarnation).await?;
    }
    Ok(std::fs::remove_dir_all(state)?)
}

fn spec(network: Network, ports: u16) -> Result<ContainerSpec, Failure> {
    let spec =
        ContainerSpec::new(SandboxId::parse("s-1")?, Incarnation::new(uuid::Uuid::now_v7()), Image::Host);
    let ports = (0..ports).map(|port| PublishedPort { inside: 8_080 + port, outside: None }).collect();
    Ok(ContainerSpec { limits: Limits { pids: 64, ..spec.limits }, network, ports, ..spec })
}

/// How long creation, attachment and removal take.
async fn cycle(engine: &Namespaces, spec: &ContainerSpec) -> Result<(Duration, Duration, Duration), Failure> {
    let began = Instant::now();
    engine.create(spec).await?;
    let created = began.elapsed();
    engine.attach_network(&spec.incarnation).await?;
    let attached = began.elapsed();
    engine.remove(&spec.incarnation).await?;
    Ok((created, attached - created, began.elapsed() - attached))
}

fn print(name: &str, mut spans: Vec<Duration>) {
    spans.sort();
    let at = |share: f64| spans.get((spans.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("{name}: min {:.1?} p50 {:.1?} p90 {:.1?} max {:.1?}", at(0.0), at(0.5), at(0.9), at(0.98));
}

/// Resident and proportional memory of wrappers, supervisors and what carries connections, in KiB.
fn kib() -> Result<Vec<(String, u64, u64)>, Failure> {
    let mut sums: Vec<(String, u64, u64)> = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
        let name = name.trim().to_owned();
        let Ok(text) = std::fs::read_to_string(entry.path().join("smaps_rollup")) else { continue };
        // (Its name depends on the processor: `passt.avx2`.)
        if !["bwrap", "supervisor", "pasta"].contains(&name.as_str()) && !name.starts_with("passt") {
            continue;
        }
        let of = |key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default()
        };
        let (rss, pss) = (of("Rss:"), of("Pss:"));
        match sums.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, all_rss, all_pss)) => (*all_rss, *all_pss) = (*all_rss + rss, *all_pss + pss),
            None => sums.push((name, rss, pss)),
        }
    }
    Ok(sums)
}
