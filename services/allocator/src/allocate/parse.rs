//! Validates claims.

use super::Claim;
use crate::admission::Permit;
use crate::candidates::Selector;
use crate::{Allocator, parse_actor, store_fault};
use contract::{AllocateRequest, Fault, FaultCode, LabDuration, Principal, Scope, WarmPolicy};
use domain::template::Isolation;
use domain::{
    ClaimKey, ClaimOptions, Descriptor, IdempotencyKey, LabId, NamePrefix, OwnerId, PoolKind, PoolName,
    PoolSpec, Sandbox, Template, TemplateVersion,
};
use ports::bus::Request;

/// Where the sandbox of a claim comes from.
struct Source {
    /// The pool; the default one if none.
    pool: Option<String>,
    /// What the claim says about the sandbox, with what it takes over.
    options: ClaimOptions,
    /// The sandbox that it is to be a replica of.
    original: Option<Sandbox>,
}

impl Allocator {
    /// A claim whose every field is valid, of pools that the caller may use.
    pub(super) async fn parse_claim<'a>(
        &self,
        asked: &Request,
        request: &AllocateRequest,
        principal: &'a Principal,
        permit: &'a Permit,
    ) -> Result<Claim<'a>, Fault> {
        let AllocateRequest {
            owner,
            lab,
            idempotency_key,
            pool: _,
            name_prefix,
            lab_duration_hours,
            lab_duration_minutes,
            warm,
            template: _,
            replica_of: _,
            env: _,
            labels: _,
            by,
        } = request;
        let owner = crate::lookup::parse_owner(asked, owner)?;
        let key = ClaimKey { key: parse_key(asked, &owner, idempotency_key)?, owner };
        let lab =
            present(lab).map(LabId::parse).transpose().map_err(|problem| Fault::invalid("lab", problem))?;
        let prefix = present(name_prefix)
            .map(NamePrefix::parse)
            .transpose()
            .map_err(|problem| Fault::invalid("name_prefix", problem))?;
        let wanted = LabDuration::of_fields(*lab_duration_hours, *lab_duration_minutes);
        let by = parse_actor(asked, by.as_deref())?;
        let warm = parse_warm(present(warm))?;
        let Source { pool, options, original } =
            self.source_of(asked, request, &key.owner, &principal.scope).await?;
        let mut claim = Claim {
            permit,
            key,
            lab,
            selectors: Vec::new(),
            wanted,
            by,
            principal,
            request: None,
            is_only_attempt: false,
            creation: None,
            options: options.boxed(),
            warm,
        };
        claim.selectors = match (pool.as_deref(), prefix) {
            (None, Some(prefix)) => {
                self.check_options(asked, &mut claim).await?;
                self.selectors_of(&claim, &prefix)?
            }
            (pool, prefix) => {
                let pool = self.parse_pool(asked, pool).await?;
                // The default pool needs the same permission as a named one.
                claim.authorize(&pool)?;
                self.check_length(&pool, wanted)?;
                claim.creation = self.creation_in(&pool, prefix.as_ref(), claim.options.as_deref())?;
                if let Some(original) = &original {
                    claim.replicate(original)?;
                }
                self.check_options(asked, &mut claim).await?;
                if warm == WarmPolicy::Never && claim.creation.is_none() {
                    return Err(Fault::invalid(
                        "warm",
                        "cannot be never: the sandboxes of this pool are not created",
                    ));
                }
                vec![Selector { pool, prefix }]
            }
        };
        Ok(claim)
    }

    /// Where the sandbox of a claim comes from.
    async fn source_of(
        &self,
        asked: &Request,
        request: &AllocateRequest,
        owner: &OwnerId,
        scope: &Scope,
    ) -> Result<Source, Fault> {
        let AllocateRequest { pool, template, replica_of, env, labels, .. } = request;
        let options = ClaimOptions { env: env.clone(), labels: labels.clone() };
        let original = match present(replica_of) {
            Some(id) => Some(self.original(asked, id, owner).await?),
            None => None,
        };
        let pool = match (&original, present(template), present(pool)) {
            (Some(original), None, None) => Some(original.pool.to_string()),
            (Some(_), _, _) => {
                return Err(Fault::invalid("replica_of", "says the pool; leave out pool and template"));
            }
            (None, Some(template), pool) => Some(self.pool_of_template(scope, template, pool)?),
            (None, None, pool) => pool.map(str::to_owned),
        };
        let options = match &original {
            Some(original) => options.over(original.lease().and_then(|lease| lease.options.as_deref())),
            None => options,
        };
        options.check().map_err(|(field, problem)| Fault::invalid(field, problem))?;
        Ok(Source { pool, options, original })
    }

    /// The sandbox that a claim is to be a replica of: a container or the like that the same owner holds.
    async fn original(&self, asked: &Request, id: &str, owner: &OwnerId) -> Result<Sandbox, Fault> {
        let sandbox = self.own_sandbox(asked, id, owner).await?;
        if sandbox.lease().is_none() {
            return Err(Fault::new(FaultCode::InvalidState, "this sandbox has been released"));
        }
        Ok(sandbox)
    }

    /// The only pool whose sandboxes are created from a template, among those of a scope.
    fn pool_of_template(&self, scope: &Scope, template: &str, pool: Option<&str>) -> Result<String, Fault> {
        let pools = self.ports.pools.current();
        // Pools that the principal may not use are not named either.
        let names_it =
            |spec: &&PoolSpec| spec.template.as_deref() == Some(template) && scope.admits(&spec.name);
        let named: Vec<_> = pools.specs().iter().filter(names_it).map(|spec| spec.name.as_str()).collect();
        match (named.as_slice(), pool) {
            (named, Some(pool)) if named.contains(&pool) => Ok(pool.to_owned()),
            (_, Some(_)) => Err(Fault::invalid("template", "is not that of the pool; leave one of them out")),
            ([only], None) => Ok((*only).to_owned()),
            ([], None) => Err(Fault::invalid("template", "is that of no pool; create a pool that names it")),
            (several, None) => {
                let problem = format!("is that of several pools; name one of {}", several.join(", "));
                Err(Fault::invalid("template", problem))
            }
        }
    }

    /// An environment is for containers. A main command that has begun without it would never see it, so a claim with one has
    /// its container created.
    async fn check_options(&self, asked: &Request, claim: &mut Claim<'_>) -> Result<(), Fault> {
        if claim.options.as_ref().is_none_or(|options| options.env.is_empty()) {
            return Ok(());
        }
        let Some(creation) = &claim.creation else {
            return Err(Fault::invalid("env", "is for pools of containers, and this pool is none"));
        };
        let template = self.template_at(asked, &creation.template).await?;
        // An image of a container engine may bring a command.
        let has_command = template.is_some_and(|Template { spec, .. }| {
            !spec.command.is_empty() || spec.isolation == Isolation::Container
        });
        match claim.warm {
            WarmPolicy::Require if has_command => Err(Fault::invalid(
                "warm",
                "cannot be require: the main command of the template needs the environment at its start",
            )),
            WarmPolicy::Prefer if has_command => {
                claim.warm = WarmPolicy::Never;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Every pool whose sandboxes a claim with a prefix and without a pool may get: first the default pool, then those
    /// whose own prefix fits.
    fn selectors_of(&self, claim: &Claim<'_>, prefix: &NamePrefix) -> Result<Vec<Selector>, Fault> {
        let pools = self.ports.pools.current();
        let (default, asked) = (pools.default_pool(), prefix.as_str());
        // The names of what the fleet creates mean nothing.
        let listed = pools.specs().iter().filter(|spec| spec.kind == PoolKind::Account);
        let mut specs: Vec<_> = listed.collect();
        specs.sort_by_cached_key(|spec| {
            let of_pool = spec.name_prefix.as_ref().map_or("", NamePrefix::as_str);
            let is_likely = of_pool.starts_with(asked) || asked.starts_with(of_pool);
            (default != Some(&spec.name), !is_likely)
        });
        let (mut selectors, mut refused) = (Vec::new(), None);
        for PoolSpec { name: pool, .. } in specs {
            let usable = claim.authorize(pool).and_then(|()| self.check_length(pool, claim.wanted));
            match usable {
                Ok(()) => selectors.push(Selector { pool: pool.clone(), prefix: Some(prefix.clone()) }),
                Err(fault) => refused = refused.or(Some(fault)),
            }
        }
        match refused {
            Some(fault) if selectors.is_empty() => Err(fault),
            _ => Ok(selectors),
        }
    }

    /// Whether a lease in `pool` may be as long.
    fn check_length(&self, pool: &PoolName, wanted: Option<LabDuration>) -> Result<(), Fault> {
        let leases = self.ports.pools.current().leases_of(pool);
        let length = leases.length(wanted.map(LabDuration::length));
        length.map(|_| ()).ok_or_else(|| crate::lookup::bad_duration(wanted, leases.duration_max))
    }

    /// The pool of a claim. This worker may not have seen a new pool yet, so an unknown name is looked up. A pool without
    /// an item was removed, or another worker is adding it.
    async fn parse_pool(&self, asked: &Request, pool: Option<&str>) -> Result<PoolName, Fault> {
        let pools = self.ports.pools.current();
        let pool = match pool {
            Some(pool) => PoolName::parse(pool).map_err(|problem| Fault::invalid("pool", problem))?,
            None => pools.default_pool().cloned().ok_or_else(|| {
                Fault::invalid("pool", "has to be named: no pool of this fleet takes every name")
            })?,
        };
        if pools.contains(&pool) {
            return Ok(pool);
        }
        let store = &self.ports.store;
        let known = store.pools().await.map_err(|error| store_fault(asked, &error))?;
        if known.contains(&pool) {
            self.ports.pools.refresh(store.as_ref()).await.map_err(|error| store_fault(asked, &error))?;
            if self.ports.pools.current().contains(&pool) {
                return Ok(pool);
            }
            let message =
                format!("no worker that was asked serves pool {pool}; it is being added, or was removed");
            return Err(Fault::new(FaultCode::NotHere, message));
        }
        Err(Fault::invalid("pool", "is not a pool of this broker"))
    }
}

// === impl Claim ===

impl Claim<'_> {
    /// Asks for the same version of the template as `original`. Free ones are of the current version.
    fn replicate(&mut self, original: &Sandbox) -> Result<(), Fault> {
        if original.lease().is_some_and(|lease| lease.claim == self.key) {
            return Err(Fault::invalid("idempotency_key", "is that of the sandbox itself; use another key"));
        }
        let version = original.descriptor.get(Descriptor::TEMPLATE).map(TemplateVersion::parse);
        let (Some(creation), Some(Ok(version))) = (self.creation.as_mut(), version) else {
            return Err(Fault::invalid("replica_of", "must name a sandbox that the fleet has created"));
        };
        if creation.template == version {
            return Ok(());
        }
        if self.warm == WarmPolicy::Require {
            let problem = "cannot be require: free sandboxes are of a newer version of the template";
            return Err(Fault::invalid("warm", problem));
        }
        creation.template = version;
        self.warm = WarmPolicy::Never;
        Ok(())
    }
}

/// The key in the body or in the header; the owner without one.
fn parse_key(asked: &Request, owner: &OwnerId, inside: &Option<String>) -> Result<IdempotencyKey, Fault> {
    let key = match (present(inside), present(&asked.context.idempotency_key)) {
        (Some(inside), Some(beside)) if inside != beside => {
            return Err(Fault::invalid("idempotency_key", "differs from the header Idempotency-Key"));
        }
        (inside, beside) => inside.or(beside),
    };
    match key {
        None => Ok(IdempotencyKey::from(owner)),
        Some(key) => IdempotencyKey::parse(key).map_err(|problem| Fault::invalid("idempotency_key", problem)),
    }
}

/// The policy of that name, or the default.
fn parse_warm(name: Option<&str>) -> Result<WarmPolicy, Fault> {
    let Some(name) = name else { return Ok(WarmPolicy::default()) };
    name.parse()
        .map_err(|_| Fault::invalid("warm", format!("must be one of {}", contract::names::<WarmPolicy>())))
}

/// A field that is present and not blank.
fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().map(str::trim).filter(|text| !text.is_empty())
}
