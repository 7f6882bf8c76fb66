//! A control plane of a few records that answers reports as the allocator does.

use bytes::Bytes;
use contract::nodes::{
    AfterFailure, Fate, HeldReply, HeldRequest, Holding, NodeLease, NodePool, NodePoolsReply,
    NodeRegistration, ProvisionFailedReply, ProvisionFailedRequest, ProvisionWantedReply,
    ProvisionWantedRequest, ProvisionedRequest, WantedSandbox,
};
use contract::templates::TemplateSettings;
use contract::{Fault, FaultCode, Verb};
use parking_lot::Mutex;
use ports::bus::{Context, Reply, RequestError, Requests};
use ports::engine::Incarnation;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Failed attempts after which a creation is parked.
const ATTEMPTS_MAX: u32 = 3;

/// The record of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Provisioning { epoch: u64, attempts: u32, lease: Option<NodeLease> },
    Ready { incarnation: String, lease: Option<NodeLease> },
    Parked,
    Ended,
}

/// What is lost of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    Message,
    Answer,
}

/// The control plane.
pub(crate) struct FakeControl {
    inside: Mutex<Inside>,
}

struct Inside {
    is_down: bool,
    generation: u64,
    records: BTreeMap<String, Record>,
    pools: BTreeMap<String, TemplateSettings>,
    /// What the template of every sandbox says.
    template: TemplateSettings,
    losses: VecDeque<(Verb, Loss)>,
    /// Faults of the next reports of a kind.
    faults: VecDeque<(Verb, FaultCode)>,
    reports: Vec<(Verb, Value)>,
    /// The next report of that kind waits for this.
    gate: Option<(Verb, Arc<Notify>)>,
}

// === impl FakeControl ===

impl FakeControl {
    /// One with a pool and no record.
    pub(crate) fn new() -> Self {
        let template = TemplateSettings { image: "host".to_owned(), ..TemplateSettings::default() };
        let pools = BTreeMap::from([(super::POOL.to_owned(), template.clone())]);
        let inside = Inside {
            is_down: false,
            generation: 0,
            records: BTreeMap::new(),
            pools,
            template,
            losses: VecDeque::new(),
            faults: VecDeque::new(),
            reports: Vec::new(),
            gate: None,
        };
        Self { inside: Mutex::new(inside) }
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.inside.lock().is_down = is_down;
    }

    pub(crate) fn put(&self, id: &str, record: Record) {
        self.inside.lock().records.insert(id.to_owned(), record);
    }

    /// Forgets a record, as a table does that was restored to an earlier time.
    pub(crate) fn lose_record(&self, id: &str) {
        self.inside.lock().records.remove(id);
    }

    pub(crate) fn record(&self, id: &str) -> Option<Record> {
        self.inside.lock().records.get(id).cloned()
    }

    /// Changes the lease of a sandbox that is ready.
    pub(crate) fn set_lease(&self, id: &str, lease: Option<NodeLease>) {
        let Some(Record::Ready { incarnation, .. }) = self.record(id) else { panic!("{id} is not ready") };
        self.put(id, Record::Ready { incarnation, lease });
    }

    /// The container that the record of a sandbox names.
    pub(crate) fn incarnation(&self, id: &str) -> Option<Incarnation> {
        match self.record(id)? {
            Record::Ready { incarnation, .. } => Incarnation::parse(&incarnation).ok(),
            _ => None,
        }
    }

    pub(crate) fn set_template(&self, template: TemplateSettings) {
        let mut inside = self.inside.lock();
        inside.pools.insert(super::POOL.to_owned(), template.clone());
        inside.template = template;
    }

    pub(crate) fn set_pool(&self, pool: &str, template: TemplateSettings) {
        self.inside.lock().pools.insert(pool.to_owned(), template);
    }

    pub(crate) fn lose(&self, verb: Verb, loss: Loss) {
        self.inside.lock().losses.push_back((verb, loss));
    }

    pub(crate) fn refuse(&self, verb: Verb, code: FaultCode) {
        self.inside.lock().faults.push_back((verb, code));
    }

    /// Holds the next report of a kind until it is notified.
    pub(crate) fn hold(&self, verb: Verb) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.inside.lock().gate = Some((verb, Arc::clone(&gate)));
        gate
    }

    /// Ends the generation of the node, as the loss of a node does.
    pub(crate) fn end_generation(&self) {
        self.inside.lock().generation += 1;
    }

    pub(crate) fn generation(&self) -> u64 {
        self.inside.lock().generation
    }

    /// The bodies of all reports of a kind that have arrived.
    pub(crate) fn reports(&self, verb: Verb) -> Vec<Value> {
        let inside = self.inside.lock();
        inside
            .reports
            .iter()
            .filter(|(reported, _)| *reported == verb)
            .map(|(_, body)| body.clone())
            .collect()
    }
}

#[async_trait::async_trait]
impl Requests for FakeControl {
    async fn request(
        &self,
        verb: Verb,
        _context: &Context,
        body: Bytes,
        _timeout: Duration,
    ) -> Result<Reply, RequestError> {
        // As on a bus, other tasks run in between.
        tokio::task::yield_now().await;
        let gate = self.inside.lock().gate.take_if(|(held, _)| *held == verb);
        if let Some((_, gate)) = gate {
            gate.notified().await;
        }
        let mut inside = self.inside.lock();
        if inside.is_down {
            return Err(RequestError::NoResponders);
        }
        let loss = inside.losses.front().copied().filter(|(lost, _)| *lost == verb).map(|(_, loss)| loss);
        if loss.is_some() {
            inside.losses.pop_front();
        }
        if loss == Some(Loss::Message) {
            return Err(RequestError::TimedOut);
        }
        inside.reports.push((verb, serde_json::from_slice(&body).unwrap()));
        let refused = inside.faults.front().copied().filter(|(refused, _)| *refused == verb);
        let answer = match refused {
            Some((_, code)) => {
                inside.faults.pop_front();
                Err(Fault::new(code, "refused by the test"))
            }
            None => inside.answer(verb, &body),
        };
        if loss == Some(Loss::Answer) {
            return Err(RequestError::TimedOut);
        }
        let is_fault = answer.is_err();
        let body = answer.unwrap_or_else(|fault| serde_json::to_vec(&fault.body("r-1")).unwrap());
        Ok(Reply { outcome: None, is_fault, body: body.into() })
    }

    fn is_connected(&self) -> bool {
        !self.inside.lock().is_down
    }
}

// === impl Inside ===

impl Inside {
    fn answer(&mut self, verb: Verb, body: &[u8]) -> Result<Vec<u8>, Fault> {
        if verb == Verb::RegisterNode {
            self.generation += 1;
            return json(&NodeRegistration { node: "a".to_owned(), generation: self.generation });
        }
        let report: Value = serde_json::from_slice(body).unwrap();
        if report["generation"] != self.generation || report["node"] != "a" {
            return Err(Fault::new(FaultCode::InvalidState, "another generation"));
        }
        match verb {
            Verb::NodePools => {
                let pools = self.pools.iter().map(|(pool, settings)| NodePool {
                    pool: pool.clone(),
                    template: "shell@1".to_owned(),
                    settings: settings.clone(),
                });
                json(&NodePoolsReply { pools: pools.collect() })
            }
            Verb::ProvisionWanted => json(&self.wanted(&serde_json::from_slice(body).unwrap())),
            Verb::Provisioned => json(&self.provisioned(&serde_json::from_slice(body).unwrap())),
            Verb::ProvisionFailed => json(&self.failed(serde_json::from_slice(body).unwrap())),
            Verb::Held => {
                let request: HeldRequest = serde_json::from_slice(body).unwrap();
                let holdings = request.containers.iter();
                let holdings = holdings.map(|held| self.holding(&held.sandbox_id, &held.incarnation));
                json(&HeldReply { holdings: holdings.collect() })
            }
            _ => panic!("no report: {verb:?}"),
        }
    }

    fn wanted(&self, request: &ProvisionWantedRequest) -> ProvisionWantedReply {
        let wanted = match self.records.get(&request.sandbox_id) {
            Some(Record::Provisioning { epoch, attempts, lease }) if *epoch == request.epoch => {
                let (attempts, settings, lease) = (*attempts, self.template.clone(), lease.clone());
                Some(WantedSandbox { attempts, settings, lease })
            }
            _ => None,
        };
        ProvisionWantedReply { wanted }
    }

    fn provisioned(&mut self, request: &ProvisionedRequest) -> Holding {
        let ProvisionedRequest { sandbox_id, epoch: of_work, incarnation, .. } = request;
        if let Some(Record::Provisioning { epoch, lease, .. }) = self.records.get(sandbox_id)
            && epoch == of_work
        {
            let ready = Record::Ready { incarnation: incarnation.clone(), lease: lease.clone() };
            self.records.insert(sandbox_id.clone(), ready);
        }
        self.holding(sandbox_id, incarnation)
    }

    fn failed(&mut self, request: ProvisionFailedRequest) -> ProvisionFailedReply {
        let Some(Record::Provisioning { attempts, .. }) = self.records.get_mut(&request.sandbox_id) else {
            return ProvisionFailedReply { next: AfterFailure::Drop, attempts: request.attempts };
        };
        *attempts = (*attempts).max(request.attempts + 1);
        let attempts = *attempts;
        if request.is_final || attempts >= ATTEMPTS_MAX {
            self.records.insert(request.sandbox_id, Record::Parked);
            return ProvisionFailedReply { next: AfterFailure::Park, attempts };
        }
        ProvisionFailedReply { next: AfterFailure::Retry, attempts }
    }

    fn holding(&self, id: &str, of_container: &str) -> Holding {
        match self.records.get(id) {
            None => Holding { fate: Fate::Unknown, lease: None },
            Some(Record::Provisioning { .. }) => Holding::keep(None),
            Some(Record::Ready { incarnation, lease }) if incarnation == of_container => {
                Holding::keep(lease.clone())
            }
            Some(_) => Holding::REMOVE,
        }
    }
}

fn json<T: Serialize>(reply: &T) -> Result<Vec<u8>, Fault> {
    Ok(serde_json::to_vec(reply).unwrap())
}
