//! Docker by turns without and with the broker: creation and start beside claims of containers that are created first, and
//! commands beside those in free containers.

use super::claims::{COMMAND, WARM_UP, micros, release_one, wanted};
use super::fleet::{COLD_POOL, ContainerFleet, WARM_POOL};
use crate::calls::Requester;
use crate::summary::Spread;
use anyhow::{Context as _, bail, ensure};
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ExecConfig, HealthConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use broker::fleet::NodeConfig;
use domain::StateName;
use futures_util::TryStreamExt as _;
use runtime::settings::{Env, Settings};
use serde::Serialize;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Time-out of a call to the engine, in seconds.
const CALL_SECONDS_MAX: u64 = 60;
/// The label of the containers of a fleet.
const LABEL_FLEET: &str = "sandbox-broker.fleet";
/// What containers without the broker run, until they are removed.
const SLEEP: [&str; 2] = ["sleep", "1000000"];
/// The user of commands, which is that of templates.
const USER: &str = "1000:1000";
/// Where the workspace is inside.
const WORKSPACE: &str = "/workspace";
/// Free containers of the pool.
const FREE: u32 = 1;
/// Pause after a removal, whose end the engine does not wait for.
const SETTLE_TIME: Duration = Duration::from_millis(200);
/// What is measured in each round.
const KINDS: u64 = 4;

/// Docker alone and with the broker, measured by turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alone {
    /// Creation and start of a container by the engine alone.
    pub created: Spread,
    /// Claims of containers that are created first, until each can be used.
    pub cold: Spread,
    /// A command by the engine alone: creation, output to its end, and result.
    pub executed: Spread,
    /// Claims of free containers.
    pub warm: Spread,
    /// The same claims with a command, from each start to its answer.
    pub first_output: Spread,
}

/// What is measured without the broker.
struct Bare<'a> {
    engine: &'a Docker,
    body: ContainerCreateBody,
    prefix: String,
}

/// Connects to the engine that a node of this machine has.
pub(super) async fn connect(env: &dyn Env) -> anyhow::Result<Docker> {
    let mut settings = Settings::new(env);
    let config = NodeConfig::read(&mut settings);
    let socket = settings.finish(config)?.socket;
    let engine = Docker::connect_with_unix(&socket.to_string_lossy(), CALL_SECONDS_MAX, API_DEFAULT_VERSION)?;
    engine.negotiate_version().await.with_context(|| format!("no Docker at {}", socket.display()))
}

/// The containers of a fleet.
pub(super) async fn ids(engine: &Docker, fleet: &str) -> anyhow::Result<Vec<String>> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL_FLEET}={fleet}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = engine.list_containers(Some(options)).await?;
    Ok(listed.into_iter().filter_map(|container| container.id).collect())
}

/// Measures so many rounds, in changing orders: the engine is still busy with what was removed before.
pub(super) async fn rounds(fleet: &ContainerFleet, count: u64) -> anyhow::Result<Alone> {
    let engine = fleet.docker.as_ref().context("the fleet has no Docker")?;
    fleet.fill(FREE).await?;
    let bare = Bare::like_that_of(fleet, engine).await?;
    let running = bare.create("running").await?;
    let (warm, cold) = (fleet.caller(Some(WARM_POOL))?, fleet.waiting_caller(COLD_POOL)?);
    let mut latencies: [Vec<u64>; 5] = Default::default();
    let measured = async {
        for round in 0..count + WARM_UP {
            let owner = format!("{}-{round}", fleet.run);
            let (mut created_us, mut cold_us, mut executed_us, mut warm_us) = (0, 0, 0, (0, 0));
            for turn in 0..KINDS {
                fleet.quiet().await?;
                tokio::time::sleep(SETTLE_TIME).await;
                let turn = if round % 2 == 0 { turn } else { KINDS - 1 - turn };
                match (round / 2 + turn) % KINDS {
                    0 => created_us = bare.created_us(&owner).await?,
                    1 => cold_us = cold_us_of(&cold, &format!("{owner}-cold")).await?,
                    2 => executed_us = bare.executed_us(&running).await?,
                    _ => {
                        warm_us = warm_us_of(&warm, &format!("{owner}-warm")).await?;
                        fleet.filled(FREE).await?;
                    }
                }
            }
            if round >= WARM_UP {
                let values = [created_us, cold_us, executed_us, warm_us.0, warm_us.1];
                latencies.iter_mut().zip(values).for_each(|(all, value)| all.push(value));
            }
        }
        anyhow::Ok(())
    };
    let measured = measured.await;
    bare.remove(&running).await?;
    measured?;
    let [created, cold, executed, warm, first_output] = latencies.map(Spread::of);
    Ok(Alone { created, cold, executed, warm, first_output })
}

/// A claim of a container that is created first, until it can be used.
async fn cold_us_of(caller: &Requester, owner: &str) -> anyhow::Result<u64> {
    let began = Instant::now();
    let answered = caller.claim_native(owner).await;
    let latency_us = micros(answered.at.duration_since(began));
    let claim = wanted(answered, "a claim")?;
    ensure!(claim.status.known() == Some(StateName::Allocated), "a claim is {}", claim.status.as_str());
    release_one(caller, owner, &claim.sandbox_id).await?;
    Ok(latency_us)
}

/// A claim of a free container, and the same with a command.
async fn warm_us_of(caller: &Requester, owner: &str) -> anyhow::Result<(u64, u64)> {
    let began = Instant::now();
    let answered = caller.claim_native(owner).await;
    let claimed_us = micros(answered.at.duration_since(began));
    let claim = wanted(answered, "a claim")?;
    ensure!(claim.status.known() == Some(StateName::Allocated), "the pool had no free container");
    let asked = Instant::now();
    let answered = caller.execute(owner, &claim.sandbox_id, &COMMAND).await;
    let output_us = claimed_us + micros(answered.at.duration_since(asked));
    let result = wanted(answered, "a command")?;
    ensure!(result.stdout == "ready\n", "the command wrote {:?}, {:?}", result.stdout, result.stderr);
    release_one(caller, owner, &claim.sandbox_id).await?;
    Ok((claimed_us, output_us))
}

// === impl Bare ===

impl<'a> Bare<'a> {
    /// Containers with the settings of those of a fleet, but without a supervisor.
    async fn like_that_of(fleet: &ContainerFleet, engine: &'a Docker) -> anyhow::Result<Self> {
        let ids = ids(engine, &fleet.run).await?;
        let inspected = engine.inspect_container(ids.first().context("no container")?, None).await?;
        let (Some(config), Some(mut host)) = (inspected.config, inspected.host_config) else {
            bail!("the engine does not say what a container is created from");
        };
        let workspace = fleet.state.join("bare");
        std::fs::create_dir_all(&workspace)?;
        if let Some(mounts) = &mut host.mounts {
            mounts.retain(|mount| mount.target.as_deref() == Some(WORKSPACE));
            mounts.iter_mut().for_each(|mount| mount.source = Some(workspace.to_string_lossy().into_owned()));
        }
        let body = ContainerCreateBody {
            image: config.image,
            user: config.user,
            entrypoint: Some(Vec::new()),
            cmd: Some(SLEEP.map(str::to_owned).to_vec()),
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }),
            working_dir: config.working_dir,
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        Ok(Self { engine, body, prefix: format!("{}-bare", fleet.run) })
    }

    async fn create(&self, name: &str) -> anyhow::Result<String> {
        let name = format!("{}-{name}", self.prefix);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.engine.create_container(Some(options), self.body.clone()).await?;
        self.engine.start_container(&name, None).await?;
        Ok(name)
    }

    async fn remove(&self, name: &str) -> anyhow::Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        Ok(self.engine.remove_container(name, Some(options)).await?)
    }

    async fn created_us(&self, name: &str) -> anyhow::Result<u64> {
        let began = Instant::now();
        let name = self.create(name).await?;
        let created_us = micros(began.elapsed());
        self.remove(&name).await?;
        Ok(created_us)
    }

    async fn executed_us(&self, container: &str) -> anyhow::Result<u64> {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some(USER.to_owned()),
            cmd: Some(COMMAND.map(str::to_owned).to_vec()),
            ..ExecConfig::default()
        };
        let began = Instant::now();
        let id = self.engine.create_exec(container, config).await?.id;
        let started = self.engine.start_exec(&id, Some(StartExecOptions::default())).await?;
        let StartExecResults::Attached { output, .. } = started else { bail!("the output is not attached") };
        let written: Vec<_> = output.map_ok(|part| part.to_string()).try_collect().await?;
        let code = self.engine.inspect_exec(&id).await?.exit_code;
        let executed_us = micros(began.elapsed());
        ensure!((written.concat().as_str(), code) == ("ready\n", Some(0)), "{written:?}, exit code {code:?}");
        Ok(executed_us)
    }
}
