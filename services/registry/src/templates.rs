//! Requests about templates.

use crate::Registry;
use contract::templates::{
    PutTemplateRequest, RemoveTemplateRequest, TemplateEntry, TemplateRequest, TemplateVersionEntry,
    TemplateVersionsReply, TemplateVersionsRequest, TemplateView, TemplatesReply, TemplatesRequest,
};
use contract::{Fault, FaultCode};
use domain::template::TEMPLATE_VERSIONS_MAX;
use domain::{Actor, Template, TemplateHead, TemplateId, UnixSeconds};
use ports::bus::Request;
use ports::store::{StoreError, cursor};
use runtime::requests::{decode, page_limit, parse_operator, place, store_fault};
use std::str::FromStr;

/// Attempts of one change; each further one means that another operator changed the template in between.
const TRIES_MAX: usize = 4;

// === impl Registry ===

impl Registry {
    pub(crate) async fn templates(&self, request: &Request) -> Result<TemplatesReply, Fault> {
        let TemplatesRequest { cursor, limit } = decode(&request.body)?;
        let after = place(cursor.as_deref(), |text| TemplateId::parse(text).ok())?;
        let page = self.ports.store.templates(after.as_ref(), page_limit(limit)?).await;
        let page = page.map_err(|error| store_fault(request, &error))?;
        Ok(TemplatesReply {
            templates: page.entries.iter().map(TemplateEntry::of).collect(),
            cursor: page.next.map(|next| cursor::encode(&[next.as_str()])),
        })
    }

    pub(crate) async fn template(&self, request: &Request) -> Result<TemplateView, Fault> {
        let TemplateRequest { template, version } = decode(&request.body)?;
        let id = parse_id(&template)?;
        // A sandbox names the version that it was made from, so versions outlive their template.
        let head = self.head(request, &id).await?.filter(|head| version.is_some() || head.is_live());
        let head = head.ok_or_else(no_such_template)?;
        self.view(request, &head, version.unwrap_or(head.version)).await?.ok_or_else(no_such_version)
    }

    /// Writes a further version, unless the current one says the same.
    pub(crate) async fn put_template(&self, request: &Request) -> Result<TemplateView, Fault> {
        let PutTemplateRequest { template, settings, version: expected, by } = decode(&request.body)?;
        let (id, by) = (parse_id(&template)?, parse_operator(request, by.as_deref())?);
        let spec = settings.spec().map_err(|mistake| Fault::invalid(mistake.field, &mistake.problem))?;
        for _ in 0..TRIES_MAX {
            let seen = self.head(request, &id).await?;
            if let Some(live) = seen.as_ref().filter(|seen| seen.is_live())
                && let Some(current) = self.version(request, &id, live.version).await?
                && current.spec == spec
            {
                return Ok(TemplateView::of(live, &current));
            }
            check_version(seen.as_ref(), expected)?;
            let version = seen.as_ref().map_or(0, |seen| seen.version) + 1;
            if version > TEMPLATE_VERSIONS_MAX {
                let message = format!("the template has {TEMPLATE_VERSIONS_MAX} versions; make another one");
                return Err(Fault::new(FaultCode::InvalidState, message));
            }
            let (created_at, spec) = (self.ports.clock.now(), spec.clone());
            let next = Template { id: id.clone(), version, created_at, by: by.clone(), spec };
            let written = self.ports.store.write_template(seen.as_ref(), &next).await;
            if written.map_err(|error| store_fault(request, &error))? {
                log(request, &id, &by, version, "wrote");
                return Ok(TemplateView::of(&TemplateHead::with(seen.as_ref(), &next), &next));
            }
        }
        Err(contended())
    }

    /// Removes a template that no pool names. Its versions stay, because sandboxes may name them.
    ///
    /// Pools are looked at before and after the mark is written, and the mark is taken away if a pool names the template by
    /// then. A pool that is written after the second look, or a crash before the mark is taken away, leaves a pool whose
    /// template is removed: nothing can be made for it until the template is put again or the pool names another one.
    pub(crate) async fn remove_template(&self, request: &Request) -> Result<TemplateView, Fault> {
        let RemoveTemplateRequest { template, version: expected, by } = decode(&request.body)?;
        let (id, by) = (parse_id(&template)?, parse_operator(request, by.as_deref())?);
        for _ in 0..TRIES_MAX {
            let seen = self.head(request, &id).await?.ok_or_else(no_such_template)?;
            if !seen.is_live() {
                return self.view(request, &seen, seen.version).await?.ok_or_else(no_such_version);
            }
            check_version(Some(&seen), expected)?;
            self.refuse_if_used(request, &id).await?;
            let removed_at = Some(self.ports.clock.now());
            if !self.mark(request, &seen, removed_at).await? {
                continue;
            }
            let removed = TemplateHead { removed_at, ..seen };
            if let Err(fault) = self.refuse_if_used(request, &id).await {
                self.mark(request, &removed, None).await?;
                return Err(fault);
            }
            log(request, &id, &by, removed.version, "removed");
            return self.view(request, &removed, removed.version).await?.ok_or_else(no_such_version);
        }
        Err(contended())
    }

    pub(crate) async fn template_versions(&self, request: &Request) -> Result<TemplateVersionsReply, Fault> {
        let TemplateVersionsRequest { template, cursor, limit } = decode(&request.body)?;
        let id = parse_id(&template)?;
        let before = place(cursor.as_deref(), |text| u64::from_str(text).ok())?;
        let limit = page_limit(limit)?;
        self.head(request, &id).await?.ok_or_else(no_such_template)?;
        let page = self.ports.store.template_versions(&id, before, limit).await;
        let page = page.map_err(|error| store_fault(request, &error))?;
        Ok(TemplateVersionsReply {
            template: id.to_string(),
            versions: page.entries.iter().map(TemplateVersionEntry::of).collect(),
            cursor: page.next.map(|next| cursor::encode(&[&next.to_string()])),
        })
    }

    /// Refuses to remove what a pool names. A pool that cannot be read may name it.
    async fn refuse_if_used(&self, request: &Request, id: &TemplateId) -> Result<(), Fault> {
        let store = &self.ports.store;
        let failed = |error: StoreError| store_fault(request, &error);
        for pool in store.pools().await.map_err(failed)? {
            let spec = store.pool_spec(&pool).await.map_err(failed)?;
            if spec.is_some_and(|spec| spec.template.as_deref() == Some(id.as_str())) {
                let message = format!("pool {pool} names the template; change or remove the pool first");
                return Err(Fault::new(FaultCode::InvalidState, message));
            }
        }
        Ok(())
    }

    async fn mark(
        &self,
        request: &Request,
        seen: &TemplateHead,
        removed_at: Option<UnixSeconds>,
    ) -> Result<bool, Fault> {
        let marked = self.ports.store.mark_template(seen, removed_at).await;
        marked.map_err(|error| store_fault(request, &error))
    }

    async fn head(&self, request: &Request, id: &TemplateId) -> Result<Option<TemplateHead>, Fault> {
        self.ports.store.template_head(id).await.map_err(|error| store_fault(request, &error))
    }

    async fn version(
        &self,
        request: &Request,
        id: &TemplateId,
        version: u64,
    ) -> Result<Option<Template>, Fault> {
        self.ports.store.template(id, version).await.map_err(|error| store_fault(request, &error))
    }

    async fn view(
        &self,
        request: &Request,
        head: &TemplateHead,
        version: u64,
    ) -> Result<Option<TemplateView>, Fault> {
        let found = self.version(request, &head.id, version).await?;
        Ok(found.map(|template| TemplateView::of(head, &template)))
    }
}

fn parse_id(id: &str) -> Result<TemplateId, Fault> {
    TemplateId::parse(id).map_err(|problem| Fault::invalid("template", problem))
}

/// Checks the version that a caller expects; 0 means that there is no template.
fn check_version(seen: Option<&TemplateHead>, expected: Option<u64>) -> Result<(), Fault> {
    let version = seen.filter(|seen| seen.is_live()).map_or(0, |seen| seen.version);
    if expected.is_none_or(|expected| expected == version) {
        return Ok(());
    }
    let message = format!("the template has version {version}; look at it again");
    Err(Fault::new(FaultCode::InvalidState, message))
}

fn log(request: &Request, id: &TemplateId, by: &Actor, version: u64, action: &str) {
    tracing::warn!(
        request.id = request.context.request_id,
        template.id = id.as_str(),
        template.version = version,
        by = by.as_str(),
        "{by} {action} version {version} of template {id}"
    );
}

fn no_such_template() -> Fault {
    Fault::new(FaultCode::NotFound, "there is no such template")
}

fn no_such_version() -> Fault {
    Fault::new(FaultCode::NotFound, "the template has no such version")
}

fn contended() -> Fault {
    Fault::new(FaultCode::Contended, "others are changing the template; repeat the same request")
}

#[cfg(test)]
mod tests;
