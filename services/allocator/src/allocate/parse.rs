//! Validates claims.

use super::Claim;
use crate::admission::Permit;
use crate::candidates::Selector;
use crate::{Allocator, parse_actor, store_fault};
use contract::{AllocateRequest, Fault, FaultCode, LabDuration, Principal, WarmPolicy};
use domain::{ClaimKey, IdempotencyKey, LabId, NamePrefix, PoolKind, PoolName, PoolSpec};
use ports::bus::Request;

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
            pool,
            name_prefix,
            lab_duration_hours,
            lab_duration_minutes,
            warm,
            by,
        } = request;
        let owner = crate::lookup::parse_owner(asked, owner)?;
        let key = match (present(idempotency_key), present(&asked.context.idempotency_key)) {
            (Some(inside), Some(beside)) if inside != beside => {
                return Err(Fault::invalid("idempotency_key", "differs from the header Idempotency-Key"));
            }
            (inside, beside) => inside.or(beside),
        };
        let key = match key {
            None => IdempotencyKey::from(&owner),
            Some(key) => {
                IdempotencyKey::parse(key).map_err(|problem| Fault::invalid("idempotency_key", problem))?
            }
        };
        let lab =
            present(lab).map(LabId::parse).transpose().map_err(|problem| Fault::invalid("lab", problem))?;
        let prefix = present(name_prefix)
            .map(NamePrefix::parse)
            .transpose()
            .map_err(|problem| Fault::invalid("name_prefix", problem))?;
        let wanted = LabDuration::of_fields(*lab_duration_hours, *lab_duration_minutes);
        let by = parse_actor(asked, by.as_deref())?;
        let key = ClaimKey { owner, key };
        let warm = parse_warm(present(warm))?;
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
            warm,
        };
        claim.selectors = match (present(pool), prefix) {
            (None, Some(prefix)) => self.selectors_of(&claim, &prefix)?,
            (pool, prefix) => {
                let pool = self.parse_pool(asked, pool).await?;
                // The default pool needs the same permission as a named one.
                claim.authorize(&pool)?;
                self.check_length(&pool, wanted)?;
                claim.creation = self.creation_in(&pool, prefix.as_ref())?;
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
