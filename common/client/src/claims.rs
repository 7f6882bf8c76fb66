//! Claims of any kind, and what containers do.

use super::{Client, ClientError, own};
use contract::claims::{ClaimView, ClaimsReply, ClaimsRequest, RuntimeRequest};
use contract::{AllocateRequest, Outcome, Verb};
use domain::{OwnerId, RuntimeAction, SandboxId};
use std::time::Duration;

/// Pause between two looks at a claim that is being created.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

impl Client {
    /// Claims a sandbox of any kind, or finds the claim that this owner and key already have. Its `status` says whether it can
    /// be used.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn claim(&self, request: &AllocateRequest) -> Result<(Outcome, ClaimView), ClientError> {
        let (reply, claim) = self.ask_whole(Verb::Claim, request).await?;
        Ok((reply.outcome.unwrap_or(Outcome::Existing), claim))
    }

    /// Looks at a claim until its sandbox can be used or cannot be created, or until the time of a call is over; then what it
    /// is.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn wait_until_ready(&self, claim: ClaimView) -> Result<ClaimView, ClientError> {
        let ends_ms = self.ends_ms();
        let mut claim = claim;
        while claim.is_under_way() && self.clock.now_ms() < ends_ms {
            self.clock.sleep(LOOK_PAUSE).await;
            let (sandbox_id, owner) = (claim.sandbox_id.clone(), claim.owner.clone());
            let request = contract::SandboxRequest { sandbox_id, owner, by: None };
            claim = self.ask(Verb::ShowClaim, &request).await?;
        }
        Ok(claim)
    }

    /// One page of the claims of an owner.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn claims(&self, owner: &OwnerId, cursor: Option<String>) -> Result<ClaimsReply, ClientError> {
        let request = ClaimsRequest { owner: owner.to_string(), cursor, limit: None };
        self.ask(Verb::Claims, &request).await
    }

    /// Shows a claim to its owner.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn show_claim(&self, id: &SandboxId, owner: &OwnerId) -> Result<ClaimView, ClientError> {
        self.ask(Verb::ShowClaim, &own(id, owner)).await
    }

    /// Starts, stops, restarts, pauses or resumes a leased container. It is not repeated.
    ///
    /// # Errors
    /// [`ClientError`], as for every call.
    pub async fn change_runtime(
        &self,
        id: &SandboxId,
        owner: &OwnerId,
        action: RuntimeAction,
        epoch: Option<u64>,
    ) -> Result<ClaimView, ClientError> {
        let request = RuntimeRequest {
            sandbox_id: id.to_string(),
            owner: owner.to_string(),
            action: action.as_str().to_owned(),
            lease_epoch: epoch,
            by: None,
        };
        self.ask(Verb::Runtime, &request).await
    }
}
