//! Messages that are no requests: those of the streams, the reports, and the keys of the bucket.

use super::message::{Header, Message};
use super::schemas::Schemas;
use super::verbs::at;
use super::{examples, reference};
use contract::ticks::TickOrder;
use contract::{
    Census, DeletionWork, Event, KnownMark, ParkedDeletion, Pause, ProvisionLane, ProvisionPriority,
    ProvisionWork, Report, RequestedPeriod, RunReport, Subjects, ThrottleState, TickKind, TurnTaken,
};
use domain::{Cause, PoolName, SandboxId};
use serde_json::{Map, Value, json};
use strum::IntoEnumIterator as _;

/// A pool, a sandbox and a number that stand for any in a subject.
const ANY: (&str, &str, u64) = ("any-pool", "any-id", 4_711);

/// A subject that is no request, and what is published there.
pub(super) struct Place {
    /// Its name in the document.
    pub(super) name: &'static str,
    address: String,
    summary: &'static str,
    message: &'static str,
    stream: Option<String>,
    /// The values of a part of the subject that has only some.
    kinds: Vec<&'static str>,
    /// Whether others than the broker may send there as well.
    is_open: bool,
}

/// Every message of these places.
///
/// # Errors
/// When a schema or an example is no JSON.
pub(super) fn messages(schemas: &mut Schemas) -> anyhow::Result<Vec<Message>> {
    use examples as e;
    let parked = [Header::ParkedReason, Header::ParkedAt, Header::Attempts];
    let unreadable = [Header::ParkedReason, Header::ParkedAt];
    let mut any =
        Message::of::<serde_json::Value>("Unreadable", "a message that no worker could read", &[], schemas)?
            .with_headers(&[], &unreadable);
    // It is kept to the byte, and is no JSON more often than not.
    any.payload = json!({ "description": "Whatever it was." });
    any.more.insert("contentType".to_owned(), "application/octet-stream".into());
    let event = Message::of::<Event>(
        "Event",
        "one state change of one sandbox, in the shape of CloudEvents 1.0; its id is the Nats-Msg-Id as well",
        &[e::EVENT_LISTED, e::EVENT_CLAIMED],
        schemas,
    )?;
    let mut all = vec![
        Message::of::<DeletionWork>(
            "DeletionWork",
            "look at this sandbox; the table decides",
            &[e::WORK],
            schemas,
        )?,
        Message::of::<ParkedDeletion>(
            "ParkedDeletion",
            "this one was given up, and why",
            &[e::PARKED],
            schemas,
        )?
        .with_headers(&[], &parked),
        any,
        Message::of::<ProvisionWork>(
            "ProvisionWork",
            "create this sandbox; the table decides",
            &[e::PROVISION_LEASED, e::PROVISION_FILL],
            schemas,
        )?
        .with_headers(&[], &parked),
        Message::of::<TickOrder>(
            "Tick",
            "look now; the body may be empty, and matters to a sync alone",
            &[e::TICK, e::TICK_SCHEDULED, e::TICK_FORCED],
            schemas,
        )?,
        event,
        Message::of::<RunReport>("RunReport", "what a run did", &e::REPORTS, schemas)?,
    ];
    all.push(Message::of::<Census>("Census", "the last census that completed", &[e::CENSUS], schemas)?);
    all.push(Message::of::<Pause>("Pause", "the operators' switch of all deletions", &[e::PAUSE], schemas)?);
    let (turn, period) = ([e::TURN], [e::REQUESTED_PERIOD]);
    all.push(Message::of::<TurnTaken>("TurnTaken", "the turn of periodic work", &turn, schemas)?);
    let summary = "the period in which pools ask for ticks";
    all.push(Message::of::<RequestedPeriod>("RequestedPeriod", summary, &period, schemas)?);
    let throttle = [e::THROTTLE_NEW, e::THROTTLE_BROKEN];
    all.push(Message::of::<ThrottleState>("LineState", "the provider throttle", &throttle, schemas)?);
    all.push(Message::of::<KnownMark>(
        "KnownMark",
        "the highest mark of the table; a table with a lower one was put back to an earlier time",
        &[e::KNOWN_MARK],
        schemas,
    )?);
    schemas.show("DeletionsStatus", e::DELETIONS_STATUS)?;
    Ok(all)
}

/// Every such place.
pub(super) fn places(subjects: &Subjects) -> Vec<Place> {
    let (Ok(pool), Ok(id)) = (PoolName::parse(ANY.0), SandboxId::parse(ANY.1)) else { return Vec::new() };
    let ticks = || Report::kinds().map(TickKind::as_str).collect();
    let work =
        place("deletion-work", subjects.deletion_work(&pool, &id), "DeletionWork", "delete this sandbox");
    let retry = place(
        "deletion-retry",
        subjects.deletion_retry(&pool, &id),
        "DeletionWork",
        "the same, not before its time",
    );
    let parked =
        place("parked-deletions", subjects.parked(&pool, &id), "ParkedDeletion", "what was given up");
    let unreadable =
        place("unreadable", subjects.parked_unreadable(ANY.2), "Unreadable", "what no worker could read");
    let tick = subjects.tick(TickKind::SYNC).replace(TickKind::SYNC.as_str(), "{kind}");
    let tick = place("ticks", tick, "Tick", "look now");
    let event = subjects.event(Cause::Listed, &id).replace(Cause::Listed.as_str(), "{kind}");
    let event = place("events", event, "Event", "what happened to every sandbox");
    let report = subjects.report(TickKind::SYNC).replace(TickKind::SYNC.as_str(), "{kind}");
    let report = place("reports", report, "RunReport", "what a run did");
    let key = |name, key: &str, message, summary| {
        let place = place(name, format!("$KV.{}.{key}", subjects.bucket()), message, summary);
        in_stream(format!("KV_{}", subjects.bucket()), place)
    };
    let mut all = vec![
        in_stream(subjects.deletions_stream(), work),
        in_stream(subjects.deletions_stream(), retry),
        in_stream(subjects.parked_stream(), parked),
        in_stream(subjects.parked_stream(), unreadable),
        Place { kinds: ticks(), is_open: true, ..in_stream(subjects.ticks_stream(), tick) },
        Place {
            kinds: Cause::iter().map(Cause::as_str).collect(),
            ..in_stream(subjects.events_stream(), event)
        },
        Place { kinds: ticks(), ..report },
        Place {
            kinds: ticks(),
            ..key("key-report", "report.{kind}", "RunReport", "the last report of each kind")
        },
        Place {
            kinds: ticks(),
            ..key("key-tick", "tick.{kind}", "TurnTaken", "the last turn of each kind's ticks")
        },
        Place {
            kinds: vec![TickKind::SYNC.as_str()],
            ..key("key-period", "period.{kind}", "RequestedPeriod", "the period that pools ask for")
        },
        key("key-listing", "listing.{provider}", "TurnTaken", "the last scheduled read of a listing"),
        key("key-census", "census", "Census", "the last census"),
        Place { is_open: true, ..key("key-pause", "deletions.pause", "Pause", "the operators' switch") },
        key("key-mark", "table.mark", "KnownMark", "the highest mark of the table"),
        key("key-line", "line.provider", "LineState", "the provider throttle"),
    ];
    all.extend(provisions(subjects, &pool, &id));
    all
}

/// Those of the work that creates sandboxes.
fn provisions(subjects: &Subjects, pool: &PoolName, id: &SandboxId) -> [Place; 4] {
    const MESSAGE: &str = "ProvisionWork";
    let lane = ProvisionLane { priority: ProvisionPriority::Lease, pool: pool.clone() };
    let work = subjects.provision_work(&lane, id).replace(".lease.", ".{kind}.");
    let work = place("provision-work", work, MESSAGE, "create this sandbox");
    let retry = subjects.provision_retry(pool, id);
    let retry = place("provision-retry", retry, MESSAGE, "the same, not before its time");
    let parked = subjects.provision_parked(pool, id);
    let parked = place("parked-provisions", parked, MESSAGE, "which creation was given up");
    let unreadable = subjects.provision_unreadable(ANY.2);
    let unreadable = place("unreadable-provisions", unreadable, "Unreadable", "what no runner could read");
    [
        Place {
            kinds: ProvisionPriority::iter().map(ProvisionPriority::as_str).collect(),
            ..in_stream(subjects.provisions_stream(), work)
        },
        in_stream(subjects.provisions_stream(), retry),
        in_stream(subjects.parked_stream(), parked),
        in_stream(subjects.parked_stream(), unreadable),
    ]
}

fn place(name: &'static str, address: String, message: &'static str, summary: &'static str) -> Place {
    Place {
        name,
        address: address
            .replace(ANY.0, "{pool}")
            .replace(ANY.1, "{id}")
            .replace(&ANY.2.to_string(), "{sequence}"),
        summary,
        message,
        stream: None,
        kinds: Vec::new(),
        is_open: false,
    }
}

fn in_stream(stream: String, place: Place) -> Place {
    Place { stream: Some(stream), ..place }
}

// === impl Place ===

impl Place {
    /// As a channel of the document.
    pub(super) fn channel(&self) -> Value {
        let Self { name, address, summary, message, stream, .. } = self;
        let mut channel = json!({
            "address": address,
            "title": name,
            "summary": summary,
            "messages": { *message: reference(message) },
            "parameters": self.parameters(),
            "tags": [{ "name": "stream" }],
        });
        if let (Some(stream), Some(fields)) = (stream, channel.as_object_mut()) {
            fields.insert("x-stream".to_owned(), stream.as_str().into());
        }
        channel
    }

    fn parameters(&self) -> Map<String, Value> {
        let known = [
            ("pool", json!({ "description": "the pool", "examples": ["main"] })),
            ("id", json!({ "description": "the sandbox", "examples": ["2000000"] })),
            ("sequence", json!({ "description": "its sequence in the work queue", "examples": ["7"] })),
            ("provider", json!({ "description": "the provider", "examples": ["csp"] })),
            ("kind", json!({ "description": "what kind", "enum": self.kinds })),
        ];
        let is_there = |name: &str| self.address.contains(&format!("{{{name}}}"));
        known.into_iter().filter(|(name, _)| is_there(name)).map(|(name, is)| (name.to_owned(), is)).collect()
    }

    /// What the broker does there; and what it takes, where others may send as well.
    pub(super) fn operations(&self) -> Vec<(String, Value)> {
        let Self { name, summary, message, is_open, .. } = self;
        let operation = |action: &str| {
            let operation = json!({
                "action": action,
                "summary": summary,
                "channel": { "$ref": format!("#/channels/{name}") },
                "messages": [at(name, message)],
                "tags": [{ "name": "stream" }],
            });
            (format!("{action}-{name}"), operation)
        };
        let actions: &[&str] = if *is_open { &["receive", "send"] } else { &["send"] };
        actions.iter().map(|action| operation(action)).collect()
    }
}
