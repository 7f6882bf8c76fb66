//! What the runners of nodes report and ask (protocol rules P7 and P8): the table decides, and a container without a record
//! that names it has to go.

use crate::{Allocator, decode, store_fault};
use contract::nodes::{
    AfterFailure, HELD_ENV_BYTES, HELD_MAX, HeldContainer, HeldReply, HeldRequest, Holding, NodeLease,
    NodePool, NodePoolsReply, NodePoolsRequest, NodeRegistration, ProvisionFailedReply,
    ProvisionFailedRequest, ProvisionWantedReply, ProvisionWantedRequest, ProvisionedRequest,
    RegisterNodeRequest, WantedSandbox,
};
use contract::templates::TemplateSettings;
use contract::{Fault, FaultCode};
use domain::node::NODE_TEXT_BYTES_MAX;
use domain::template::Isolation;
use domain::{
    Descriptor, Epoch, Node, NodeId, PoolKind, PoolSpec, Pools, Provision, RuntimeState, Sandbox, SandboxId,
    State, Template, TemplateVersion,
};
use ports::bus::Request;
use ports::engine::Incarnation;
use ports::store::{Write, unless_unreadable};
use runtime::requests::{parse_incarnation, parse_node, parse_sandbox};

/// Attempts of one change; each further one means that another writer was faster.
const TRIES_MAX: usize = 4;

// === impl Allocator ===

impl Allocator {
    pub(crate) async fn register_node(&self, request: &Request) -> Result<NodeRegistration, Fault> {
        let RegisterNodeRequest { node, engine, isolation, version } = decode(&request.body)?;
        let id = parse_node(&node)?;
        let isolation = isolation.parse::<Isolation>().map_err(|_| {
            Fault::invalid("isolation", format!("must be one of {}", contract::names::<Isolation>()))
        })?;
        for (field, text) in [("engine", &engine), ("version", &version)] {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_plain || !(1..=NODE_TEXT_BYTES_MAX).contains(&text.len()) {
                let problem = format!("must be 1 to {NODE_TEXT_BYTES_MAX} visible ASCII characters");
                return Err(Fault::invalid(field, problem));
            }
        }
        let store = &self.ports.store;
        for _ in 0..TRIES_MAX {
            let seen = store.node(&id).await.map_err(|error| store_fault(request, &error))?;
            let next = Node {
                id: id.clone(),
                generation: seen.as_ref().map_or(0, |seen| seen.generation).saturating_add(1),
                engine: engine.clone(),
                isolation,
                version: version.clone(),
                registered_at: self.ports.clock.now(),
                lost_at: None,
                drain: seen.as_ref().and_then(|seen| seen.drain),
            };
            if store.write_node(seen.as_ref(), &next).await.map_err(|error| store_fault(request, &error))? {
                tracing::info!(
                    node.id = id.as_str(),
                    node.generation = next.generation,
                    "node {id} has registered"
                );
                return Ok(NodeRegistration { node: id.to_string(), generation: next.generation });
            }
        }
        Err(Fault::new(FaultCode::Contended, "the node is being registered by others; repeat the request"))
    }

    pub(crate) async fn node_pools(&self, request: &Request) -> Result<NodePoolsReply, Fault> {
        let NodePoolsRequest { node, generation } = decode(&request.body)?;
        let node = self.check_generation(request, &node, generation).await?;
        if node.drain.is_some() {
            return Ok(NodePoolsReply::default());
        }
        let pools = self.ports.pools.current();
        let of_containers = pools.specs().iter().filter(|spec| spec.kind == PoolKind::Container);
        let mut known = Vec::new();
        for spec in of_containers {
            let Some(template) = pools.template_of(&spec.name) else { continue };
            // One that this build cannot read holds up no other pool.
            let found = template.parts().map(|(id, version)| async move {
                unless_unreadable(self.ports.store.template(&id, version).await)
            });
            let Some(found) = found else { continue };
            let found = found.await.map_err(|error| store_fault(request, &error))?;
            match found.map(|found| spec.restrict(&found.spec)) {
                Some(Ok(spec_of_node)) => {
                    let (pool, template) = (spec.name.to_string(), template.to_string());
                    known.push(NodePool { pool, template, settings: TemplateSettings::of(&spec_of_node) });
                }
                // The watch of the pools logs the reason once.
                Some(Err(mistake)) => tracing::debug!(
                    pool.name = spec.name.as_str(),
                    reason = %mistake,
                    "pool {} does not allow its template",
                    spec.name
                ),
                None => tracing::error!(
                    pool.name = spec.name.as_str(),
                    template.id = template.as_str(),
                    "the template of pool {} cannot be read; no node serves it",
                    spec.name
                ),
            }
        }
        Ok(NodePoolsReply { pools: known })
    }

    pub(crate) async fn provision_wanted(&self, request: &Request) -> Result<ProvisionWantedReply, Fault> {
        let ProvisionWantedRequest { node, generation, sandbox_id, epoch } = decode(&request.body)?;
        // Independent reads, while a caller may wait for the container.
        let (_, found) = tokio::try_join!(
            self.check_generation(request, &node, generation),
            self.creation_of(request, &sandbox_id, epoch)
        )?;
        let Some((sandbox, provision)) = found else {
            return Ok(ProvisionWantedReply::default());
        };
        let stored = sandbox.descriptor.get(Descriptor::TEMPLATE).map(TemplateVersion::parse);
        let template = stored.and_then(Result::ok).ok_or_else(|| lost_template(&sandbox.id))?;
        let found = self.template_at(request, &template).await?.ok_or_else(|| lost_template(&sandbox.id))?;
        let pool = self.pool_of_creation(request, &sandbox).await?;
        let attempts = provision.attempts;
        let spec = match pool.restrict(&found.spec) {
            Ok(spec) => spec,
            Err(mistake) => {
                let reason = format!("pool {} does not allow template {template}: {mistake}", pool.name);
                let failed = ProvisionFailedRequest {
                    node,
                    generation,
                    sandbox_id,
                    epoch,
                    attempts,
                    reason,
                    is_final: true,
                };
                self.count_failure(request, &failed).await?;
                return Ok(ProvisionWantedReply::default());
            }
        };
        let settings = TemplateSettings::of(&spec);
        let wanted = WantedSandbox { attempts, settings, lease: self.lease_for_node(&sandbox) };
        Ok(ProvisionWantedReply { wanted: Some(wanted) })
    }

    /// Records a container that is ready, unless its record wants it no more. A repeat finds it recorded.
    pub(crate) async fn provisioned(&self, request: &Request) -> Result<Holding, Fault> {
        let ProvisionedRequest { node, generation, sandbox_id, epoch, incarnation, endpoints, network } =
            decode(&request.body)?;
        let (Node { id: node, drain, .. }, mut found) = tokio::try_join!(
            self.check_generation(request, &node, generation),
            self.creation_of(request, &sandbox_id, epoch)
        )?;
        let (incarnation, is_drained) = (parse_incarnation(&incarnation)?, drain.is_some());
        let keys: Vec<_> =
            endpoints.keys().map(|port| format!("{}{port}", Descriptor::PORT_PREFIX)).collect();
        let (node_key, named) = (Descriptor::NODE, incarnation.to_string());
        let own = [(node_key, node.as_str()), (Descriptor::INCARNATION, named.as_str())];
        let ports = keys.iter().map(String::as_str).zip(endpoints.values().map(String::as_str));
        let network = network.as_deref().map(|network| (Descriptor::NETWORK, network));
        let descriptor = Descriptor::parse(own.into_iter().chain(ports).chain(network))
            .map_err(|problem| Fault::invalid("endpoints", problem))?;
        for _ in 0..TRIES_MAX {
            let Some((seen, _)) = found else {
                let id = parse_sandbox(&sandbox_id)?;
                return self.holding_of(request, &id, &node, &incarnation).await;
            };
            if seen.lease().is_none() && is_drained {
                // It was under way when the order came.
                let retired = self.ports.store.retire(&seen, self.ports.clock.now()).await;
                if let Write::Done(retired) = retired.map_err(|error| store_fault(request, &error))? {
                    self.announce(&retired, Some(&request.context.request_id));
                    return Ok(Holding::REMOVE);
                }
                found = self.creation_of(request, &sandbox_id, epoch).await?;
                continue;
            }
            if seen.lease().is_none() {
                // Noted first, as by a sync, so that no worker calls the pool exhausted before the index shows it.
                let noted = self.ports.store.note_supply(&seen.pool, self.ports.clock.now()).await;
                noted.map_err(|error| store_fault(request, &error))?;
            }
            let written = self.ports.store.finish_provision(&seen, &descriptor, self.ports.clock.now()).await;
            if let Write::Done(sandbox) = written.map_err(|error| store_fault(request, &error))? {
                self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
                tracing::info!(
                    sandbox.id = sandbox_id,
                    node.id = node.as_str(),
                    sandbox.state = sandbox.state.name().as_str(),
                    "{sandbox_id} is ready on {node}",
                );
                return Ok(Holding::keep(self.lease_for_node(&sandbox)));
            }
            found = self.creation_of(request, &sandbox_id, epoch).await?;
        }
        Err(contended())
    }

    /// Counts a failed attempt, or parks the creation after the last one.
    pub(crate) async fn provision_failed(&self, request: &Request) -> Result<ProvisionFailedReply, Fault> {
        let failed: ProvisionFailedRequest = decode(&request.body)?;
        self.check_generation(request, &failed.node, failed.generation).await?;
        self.count_failure(request, &failed).await
    }

    /// Counts an attempt of the current runner of a node.
    async fn count_failure(
        &self,
        request: &Request,
        failed: &ProvisionFailedRequest,
    ) -> Result<ProvisionFailedReply, Fault> {
        let ProvisionFailedRequest { node, generation: _, sandbox_id, epoch, attempts, reason, is_final } =
            failed;
        let (attempts, epoch) = (*attempts, *epoch);
        let counted = attempts.saturating_add(1);
        for _ in 0..TRIES_MAX {
            let Some((seen, provision)) = self.creation_of(request, sandbox_id, epoch).await? else {
                return Ok(ProvisionFailedReply { next: AfterFailure::Drop, attempts });
            };
            // Attempts only grow, until a replay counts anew: this one was made before it.
            if attempts > provision.attempts {
                let attempts = provision.attempts;
                return Ok(ProvisionFailedReply { next: AfterFailure::Retry, attempts });
            }
            let now = self.ports.clock.now();
            let is_counted = provision.attempts >= counted;
            let is_last = *is_final || provision.attempts.max(counted) >= self.config.provision_attempts_max;
            let store = &self.ports.store;
            let written = match (is_counted, is_last) {
                // An earlier attempt of this request counted it.
                (true, false) => {
                    let attempts = provision.attempts;
                    return Ok(ProvisionFailedReply { next: AfterFailure::Retry, attempts });
                }
                (true, true) => store.park_provision(&seen, now).await,
                (false, _) => store.note_provision_failure(&seen, counted, reason).await,
            };
            match written.map_err(|error| store_fault(request, &error))? {
                Write::Done(sandbox) if matches!(sandbox.state, State::ProvisionFailed(_)) => {
                    self.ports.recorder.note(&sandbox, Some(&request.context.request_id));
                    tracing::error!(
                        sandbox.id = sandbox_id,
                        node.id = node,
                        pool.name = sandbox.pool.as_str(),
                        reason,
                        "{sandbox_id} cannot be created; its creation is parked",
                    );
                    let attempts = provision.attempts.max(counted);
                    return Ok(ProvisionFailedReply { next: AfterFailure::Park, attempts });
                }
                // Counted; the next turn says what becomes of it.
                Write::Done(_) => {
                    tracing::warn!(
                        sandbox.id = sandbox_id,
                        node.id = node,
                        reason,
                        "attempt {counted} of {} to create {sandbox_id} failed",
                        self.config.provision_attempts_max,
                    );
                }
                Write::Lost(_) => {}
            }
        }
        Err(contended())
    }

    pub(crate) async fn held(&self, request: &Request) -> Result<HeldReply, Fault> {
        let HeldRequest { node, generation, containers } = decode(&request.body)?;
        let Node { id: node, .. } = self.check_generation(request, &node, generation).await?;
        if containers.len() > HELD_MAX {
            return Err(Fault::invalid("containers", format!("must be at most {HELD_MAX}")));
        }
        let (mut holdings, mut env_bytes) = (Vec::with_capacity(containers.len()), 0);
        for HeldContainer { sandbox_id, incarnation } in &containers {
            let (id, incarnation) = (parse_sandbox(sandbox_id)?, parse_incarnation(incarnation)?);
            let holding = self.holding_of(request, &id, &node, &incarnation).await?;
            let env = holding.lease.iter().flat_map(|lease| &lease.env);
            env_bytes += env.map(|(name, value)| name.len() + value.len()).sum::<usize>();
            holdings.push(holding);
            if env_bytes >= HELD_ENV_BYTES {
                break;
            }
        }
        Ok(HeldReply { holdings })
    }

    /// What should become of a container. While its sandbox is being created, its record may yet name it.
    async fn holding_of(
        &self,
        request: &Request,
        id: &SandboxId,
        node: &NodeId,
        incarnation: &Incarnation,
    ) -> Result<Holding, Fault> {
        let found = self.ports.store.sandbox(id).await.map_err(|error| store_fault(request, &error))?;
        let Some(sandbox) = found else { return Ok(Holding::UNKNOWN) };
        let names = |key: &str, value: &str| sandbox.descriptor.get(key) == Some(value);
        let is_named = names(Descriptor::NODE, node.as_str())
            && names(Descriptor::INCARNATION, &incarnation.to_string())
            // The record already says to its holder that it is lost.
            && RuntimeState::of(&sandbox.descriptor) != Some(RuntimeState::Failed);
        Ok(match &sandbox.state {
            State::Provisioning(_) => Holding::keep(None),
            State::Available | State::Allocated(_) | State::Quarantined { .. } | State::Stale { .. }
                if is_named =>
            {
                Holding::keep(self.lease_for_node(&sandbox))
            }
            _ => Holding::REMOVE,
        })
    }

    /// The sandbox and its creation, if that is wanted at this epoch.
    async fn creation_of(
        &self,
        request: &Request,
        sandbox_id: &str,
        epoch: u64,
    ) -> Result<Option<(Sandbox, Provision)>, Fault> {
        let id = parse_sandbox(sandbox_id)?;
        let found = self.ports.store.sandbox(&id).await.map_err(|error| store_fault(request, &error))?;
        Ok(found.filter(|sandbox| sandbox.epoch == Epoch::new(epoch)).and_then(|sandbox| {
            let State::Provisioning(provision) = &sandbox.state else { return None };
            let provision = provision.clone();
            Some((sandbox, provision))
        }))
    }

    /// Refuses reports of a runner that is not the current one of its node.
    async fn check_generation(&self, request: &Request, node: &str, generation: u64) -> Result<Node, Fault> {
        let id = parse_node(node)?;
        let found = self.ports.store.node(&id).await.map_err(|error| store_fault(request, &error))?;
        match found {
            Some(current) if current.generation == generation => Ok(current),
            Some(current) => {
                let message = format!("the node has generation {}; register it again", current.generation);
                Err(Fault::new(FaultCode::InvalidState, message))
            }
            None => Err(Fault::new(FaultCode::InvalidState, "the node is not registered")),
        }
    }

    /// A version of a template; none if there is no such version.
    pub(crate) async fn template_at(
        &self,
        request: &Request,
        template: &TemplateVersion,
    ) -> Result<Option<Template>, Fault> {
        let Some((id, version)) = template.parts() else { return Ok(None) };
        self.ports.store.template(&id, version).await.map_err(|error| store_fault(request, &error))
    }

    /// The pool of a sandbox. Without it, the rules for its template are not known.
    async fn pool_of_creation(&self, request: &Request, sandbox: &Sandbox) -> Result<PoolSpec, Fault> {
        let known = |pools: &Pools| pools.get(&sandbox.pool).cloned();
        if let Some(pool) = known(&self.ports.pools.current()) {
            return Ok(pool);
        }
        self.follow_pools(request).await?;
        known(&self.ports.pools.current()).ok_or_else(|| {
            tracing::error!(
                sandbox.id = sandbox.id.as_str(),
                pool.name = sandbox.pool.as_str(),
                "the pool of {} is not in the table, or cannot be read",
                sandbox.id
            );
            Fault::new(FaultCode::InternalError, "the pool of the sandbox is not known to this worker")
        })
    }

    pub(crate) fn lease_for_node(&self, sandbox: &Sandbox) -> Option<NodeLease> {
        let policy = self.ports.pools.current().leases_of(&sandbox.pool);
        sandbox.lease().map(|lease| NodeLease::of(lease, &policy))
    }
}

fn lost_template(id: &SandboxId) -> Fault {
    tracing::error!(sandbox.id = id.as_str(), "the template of {id} is not in the table");
    Fault::new(FaultCode::InternalError, "the template of the sandbox is not in the table")
}

fn contended() -> Fault {
    Fault::new(FaultCode::Contended, "the sandbox is being changed by others; repeat the same request")
}

#[cfg(test)]
pub(crate) mod tests;
