//! `broker client`: the requests of a lab from a shell, over HTTP or NATS, with repeats.

use crate::context;
use crate::output::{Format, Shown};
use crate::transport::{self, Ports, Transport};
use clap::Subcommand;
use client::{Claim, Client, ClientError, Timeouts};
use contract::nodes::{EXECUTION_SECONDS_DEFAULT, EXECUTION_SECONDS_MAX, ExecutionRequest};
use contract::{AllocateRequest, Allocation, ClaimView, ClaimsReply, WarmPolicy};
use domain::{IdempotencyKey, LabId, NamePrefix, OwnerId, PoolName, RuntimeAction, SandboxId, TemplateId};
use ports::clock::SystemClock;
use ports::random::Rng;
use runtime::settings::Env;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::error::Elapsed;

/// Maximum of the time-out of a call, in seconds.
const TIMEOUT_SECONDS_MAX: u64 = 3_600;
/// Time beyond that of a command for the way to its node and back, in seconds.
const EXECUTION_SLACK_SECONDS: u64 = 10;
/// Name of the connection, which also replaces `{role}` in `NATS_USER`.
const CONNECTION: &str = "service";

/// A call, and its transport.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    transport: transport::Options,
    /// How long the call may take, repeats included.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_SECONDS_MAX))]
    patience_seconds: u64,
    /// The request id in the broker's logs; a new one by default.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(subcommand)]
    call: Call,
}

/// The requests.
#[derive(Clone, Debug, Subcommand)]
enum Call {
    /// Claim a sandbox; a repeat with the same owner and key returns the same one.
    Allocate {
        /// The owner.
        #[arg(value_parser = OwnerId::parse)]
        owner: OwnerId,
        /// The idempotency key; the owner's id by default.
        #[arg(long, value_parser = IdempotencyKey::parse)]
        key: Option<IdempotencyKey>,
        /// The lab.
        #[arg(long, value_parser = LabId::parse)]
        lab: Option<LabId>,
        /// The pool.
        #[arg(long, value_parser = PoolName::parse)]
        pool: Option<PoolName>,
        /// Only sandboxes whose name has this prefix.
        #[arg(long, value_name = "PREFIX", value_parser = NamePrefix::parse)]
        name_prefix: Option<NamePrefix>,
        /// Length of the lease in hours.
        #[arg(long)]
        hours: Option<u32>,
        /// In a pool of containers: prefer, require or never take a free one.
        #[arg(long, value_name = "POLICY", value_parser = warm_policy)]
        warm: Option<WarmPolicy>,
    },
    /// Claim a sandbox of any kind, with an environment and labels; a repeat with the same owner and key returns the same claim.
    Claim {
        /// The owner.
        #[arg(value_parser = OwnerId::parse)]
        owner: OwnerId,
        /// The idempotency key; the owner's id by default.
        #[arg(long, value_parser = IdempotencyKey::parse)]
        key: Option<IdempotencyKey>,
        /// The pool.
        #[arg(long, value_parser = PoolName::parse, conflicts_with_all = ["template", "replica_of"])]
        pool: Option<PoolName>,
        /// The template; it stands for the only pool that names it.
        #[arg(long, value_parser = TemplateId::parse, conflicts_with = "replica_of")]
        template: Option<TemplateId>,
        /// A sandbox of the owner: pool, version of the template, environment and labels are taken from it.
        #[arg(long, value_name = "SANDBOX", value_parser = SandboxId::parse)]
        replica_of: Option<SandboxId>,
        /// The lab.
        #[arg(long, value_parser = LabId::parse)]
        lab: Option<LabId>,
        /// Length of the lease in minutes.
        #[arg(long)]
        minutes: Option<u32>,
        /// In a pool of containers: prefer, require or never take a free one.
        #[arg(long, value_name = "POLICY", value_parser = warm_policy)]
        warm: Option<WarmPolicy>,
        /// A variable of the environment of every command; may be repeated.
        #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
        env: Vec<(String, String)>,
        /// A label; may be repeated.
        #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
        label: Vec<(String, String)>,
        /// Wait until it can be used or cannot be created, within the time of a call.
        #[arg(long)]
        wait: bool,
    },
    /// List the claims of an owner.
    Claims {
        /// The owner.
        #[arg(value_parser = OwnerId::parse)]
        owner: OwnerId,
    },
    /// Show a claim to its owner.
    ShowClaim(Own),
    /// Start, stop, restart, pause or resume a container.
    Runtime {
        /// What to do.
        #[arg(value_parser = runtime_action)]
        action: RuntimeAction,
        #[command(flatten)]
        own: Own,
        /// The epoch of the lease.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Show a sandbox to its owner.
    Get(Own),
    /// Extend a lease.
    Extend {
        #[command(flatten)]
        own: Own,
        /// Length of the lease in total, in hours.
        #[arg(long)]
        hours: u32,
        /// The epoch of the lease.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Release a sandbox.
    Release {
        #[command(flatten)]
        own: Own,
        /// The epoch of the lease.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Run a command in a container, and wait for its end.
    Execute {
        #[command(flatten)]
        own: Own,
        /// The epoch of the lease.
        #[arg(long)]
        epoch: Option<u64>,
        /// Most time that the command may take.
        #[arg(long, value_name = "SECONDS", default_value_t = EXECUTION_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=EXECUTION_SECONDS_MAX))]
        timeout_seconds: u64,
        /// A variable of its environment; may be repeated.
        #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
        env: Vec<(String, String)>,
        /// Its working directory; the workspace by default.
        #[arg(long, value_name = "DIR")]
        cwd: Option<String>,
        /// The program and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Count the pools; over HTTP with an `admin` or `read-only` token.
    Stats,
    /// Whether a worker and its store answer.
    Health,
}

/// A sandbox and its owner.
#[derive(Clone, Debug, clap::Args)]
struct Own {
    /// The sandbox.
    #[arg(value_parser = SandboxId::parse)]
    sandbox: SandboxId,
    /// The owner that holds it.
    #[arg(value_parser = OwnerId::parse)]
    owner: OwnerId,
}

/// The printed result of a claim: the lease, and whether it is new.
#[derive(Serialize)]
struct Granted {
    outcome: &'static str,
    #[serde(flatten)]
    lease: Allocation,
}

/// The printed result of a native claim.
#[derive(Serialize)]
struct Claimed {
    outcome: &'static str,
    #[serde(flatten)]
    claim: ClaimView,
}

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Answered.
    Answered,
    /// Refused: the same call would be refused again.
    Refused,
    /// Not now: the same call may succeed later, and is safe to repeat.
    NotNow,
    /// Answered with something that cannot be read.
    Unreadable,
}

// === impl Options ===

impl Options {
    /// Sends the request, and prints the reply as JSON or the error.
    ///
    /// # Errors
    /// Mistakes in the environment; a transport that cannot be opened.
    pub(crate) async fn run(self, env: &dyn Env) -> anyhow::Result<End> {
        let Self { transport, patience_seconds, request_id, format, call } = self;
        let (transport, env) = context::transport(transport, env)?;
        let ports = Ports { clock: Arc::new(SystemClock), random: Arc::new(Rng::unseeded()) };
        let address = transport.name();
        let transport = match Transport::open(&transport, &env, &ports, CONNECTION).await {
            Err(error) if error.is::<Elapsed>() => {
                eprintln!("broker: {error}");
                return Ok(End::NotNow);
            }
            opened => opened?,
        };
        let seconds = patience_seconds.max(call.seconds_min());
        let timeouts = Timeouts { call: Duration::from_secs(seconds), ..Timeouts::default() };
        let client = Client::new(transport.requests(), ports.clock, ports.random, timeouts);
        let client = match request_id {
            Some(request_id) => client.named(&request_id),
            None => client,
        };
        let said = call.ask(&client).await;
        transport.close().await;
        Ok(match said {
            Ok(shown) => {
                format.print_line(&shown);
                End::Answered
            }
            Err(error) => {
                match error {
                    ClientError::Unanswered { .. } => eprintln!("broker: {address}: {error}"),
                    ClientError::Refused(_) | ClientError::Unreadable { .. } => eprintln!("broker: {error}"),
                }
                End::of(&error)
            }
        })
    }
}

// === impl Call ===

impl Call {
    /// How long the call has to be waited for at least.
    const fn seconds_min(&self) -> u64 {
        match self {
            Self::Execute { timeout_seconds, .. } => timeout_seconds.saturating_add(EXECUTION_SLACK_SECONDS),
            _ => 0,
        }
    }

    async fn ask(self, client: &Client) -> Result<Shown, ClientError> {
        Ok(match self {
            Self::Allocate { owner, key, lab, pool, name_prefix, hours, warm } => {
                let claim = Claim { owner, key, lab, pool, name_prefix, hours, warm };
                let claimed = client.allocate(&claim).await?;
                shown(&Granted { outcome: claimed.outcome.as_str(), lease: claimed.lease })
            }
            Self::Claim { owner, key, pool, template, replica_of, lab, minutes, warm, env, label, wait } => {
                let request = AllocateRequest {
                    owner: owner.to_string(),
                    idempotency_key: key.map(|key| key.to_string()),
                    pool: pool.map(|pool| pool.to_string()),
                    template: template.map(|template| template.to_string()),
                    replica_of: replica_of.map(|original| original.to_string()),
                    lab: lab.map(|lab| lab.to_string()),
                    lab_duration_minutes: minutes,
                    warm: warm.map(|warm| <&'static str>::from(warm).to_owned()),
                    env: env.into_iter().collect(),
                    labels: label.into_iter().collect(),
                    ..AllocateRequest::default()
                };
                let (outcome, claim) = client.claim(&request).await?;
                let claim = if wait { client.wait_until_ready(claim).await? } else { claim };
                shown(&Claimed { outcome: outcome.as_str(), claim })
            }
            Self::Claims { owner } => {
                let (mut claims, mut cursor) = (Vec::new(), None);
                loop {
                    let page = client.claims(&owner, cursor).await?;
                    claims.extend(page.claims);
                    cursor = page.cursor;
                    if cursor.is_none() {
                        break shown(&ClaimsReply { claims, cursor: None });
                    }
                }
            }
            Self::ShowClaim(Own { sandbox, owner }) => shown(&client.show_claim(&sandbox, &owner).await?),
            Self::Runtime { action, own: Own { sandbox, owner }, epoch } => {
                shown(&client.change_runtime(&sandbox, &owner, action, epoch).await?)
            }
            Self::Get(Own { sandbox, owner }) => shown(&client.get(&sandbox, &owner).await?),
            Self::Extend { own: Own { sandbox, owner }, hours, epoch } => {
                shown(&client.extend(&sandbox, &owner, hours, epoch).await?)
            }
            Self::Release { own: Own { sandbox, owner }, epoch } => {
                shown(&client.release(&sandbox, &owner, epoch).await?)
            }
            Self::Execute { own: Own { sandbox, owner }, epoch, timeout_seconds, env, cwd, command } => {
                let request = ExecutionRequest {
                    sandbox_id: sandbox.to_string(),
                    owner: owner.to_string(),
                    lease_epoch: epoch,
                    command,
                    env: env.into_iter().collect(),
                    cwd,
                    stdin: None,
                    timeout_seconds: Some(timeout_seconds),
                    by: None,
                };
                shown(&client.execute(&request).await?)
            }
            Self::Stats => shown(&client.stats().await?),
            Self::Health => shown(&client.health().await?),
        })
    }
}

/// What a claim does about free containers.
fn warm_policy(name: &str) -> Result<WarmPolicy, String> {
    name.parse().map_err(|_| format!("must be one of {}", contract::names::<WarmPolicy>()))
}

/// What to do to a container.
fn runtime_action(name: &str) -> Result<RuntimeAction, String> {
    RuntimeAction::parse(name).ok_or_else(|| format!("must be one of {}", contract::names::<RuntimeAction>()))
}

/// A variable as `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

// Replies contain texts and numbers only, which JSON can always represent.
fn shown(reply: &impl Serialize) -> Shown {
    Shown::fields(reply).unwrap_or_default()
}

// === impl End ===

impl End {
    const fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Unreadable { .. } => Self::Unreadable,
            _ if error.may_pass() => Self::NotNow,
            _ => Self::Refused,
        }
    }

    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::Unreadable => 1,
            Self::Refused => 3,
            Self::NotNow => 4,
        }
    }
}
