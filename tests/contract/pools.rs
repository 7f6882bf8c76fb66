//! The messages about pools in their JSON form of today, as `messages.rs`.

use crate::messages::strict;
use contract::PoolStats;
use contract::pools::{
    ImageSettings, LeaseSettings, PoolOrder, PoolRequest, PoolSettings, PoolView, PoolsReply, PutPoolRequest,
};
use domain::image_policy::{IMAGES_ALLOWED_BYTES_MAX, IMAGES_ALLOWED_MAX};
use domain::{POOLS_MAX, PoolName};
use insta::assert_snapshot;
use serde::Serialize;

/// `max_payload` of a NATS server by default.
const PAYLOAD_MAX: usize = 1_048_576;

fn text(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap()
}

#[test]
fn pools() {
    let lease = LeaseSettings {
        duration_minutes: Some(240),
        duration_minutes_max: Some(2_880),
        total_minutes_max: Some(4_320),
        grace_minutes: Some(30),
        idle_minutes: None,
    };
    let settings = PoolSettings {
        kind: Some("account".to_owned()),
        provider: Some("csp".to_owned()),
        name_prefix: Some("lab-".to_owned()),
        ..PoolSettings::default()
    };
    let asked = LeaseSettings { duration_minutes_max: Some(480), total_minutes_max: Some(960), ..lease };
    let put = PutPoolRequest {
        pool: "labs".to_owned(),
        settings: PoolSettings {
            lease: Some(asked),
            deletions_in_flight_max: Some(4),
            sync_seconds: Some(120),
            ..settings.clone()
        },
        version: Some(2),
        by: Some("alice".to_owned()),
    };
    // A reader refuses unknown settings, so that an operator's typing error has no silent effect.
    assert_snapshot!(text(&put), @r#"{"pool":"labs","settings":{"kind":"account","provider":"csp","name_prefix":"lab-","lease":{"duration_minutes":240,"duration_minutes_max":480,"total_minutes_max":960,"grace_minutes":30},"deletions_in_flight_max":4,"sync_seconds":120},"version":2,"by":"alice"}"#);
    let images = ImageSettings {
        allowed: Some(vec!["registry.example.com/team".to_owned()]),
        digest_required: Some(true),
    };
    let put = PutPoolRequest {
        pool: "apps".to_owned(),
        settings: PoolSettings {
            kind: Some("container".to_owned()),
            template: Some("app".to_owned()),
            images: Some(images),
            runtime: Some("runsc".to_owned()),
            untrusted: Some(true),
            ..PoolSettings::default()
        },
        ..PutPoolRequest::default()
    };
    assert_snapshot!(text(&put), @r#"{"pool":"apps","settings":{"kind":"container","template":"app","images":{"allowed":["registry.example.com/team"],"digest_required":true},"runtime":"runsc","untrusted":true}}"#);
    let order = PoolOrder { pool: "labs".to_owned(), version: Some(3), by: Some("alice".to_owned()) };
    assert_snapshot!(strict(&order), @r#"{"pool":"labs","version":3,"by":"alice"}"#);
    assert_snapshot!(strict(&PoolRequest { pool: "labs".to_owned() }), @r#"{"pool":"labs"}"#);
    let counts = PoolStats {
        total: 21,
        available: 1,
        allocated: 2,
        pending_deletion: 3,
        stale: 4,
        deletion_failed: 5,
        quarantined: 6,
        ..PoolStats::default()
    };
    let view = PoolView {
        pool: "labs".to_owned(),
        state: "active".to_owned().into(),
        version: 3,
        settings: PoolSettings {
            lease: Some(LeaseSettings { duration_minutes: Some(240), ..LeaseSettings::default() }),
            deletions_in_flight_max: Some(4),
            ..settings.clone()
        },
        lease,
        is_default: false,
        counts: Some(counts),
    };
    assert_snapshot!(text(&view), @r#"{"pool":"labs","state":"active","version":3,"settings":{"kind":"account","provider":"csp","name_prefix":"lab-","lease":{"duration_minutes":240},"deletions_in_flight_max":4},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":{"total":21,"available":1,"allocated":2,"pending_deletion":3,"stale":4,"deletion_failed":5,"quarantined":6}}"#);
    let unknown = PoolView {
        state: "unknown".to_owned().into(),
        version: 0,
        settings: PoolSettings::default(),
        counts: None,
        ..view.clone()
    };
    assert_snapshot!(text(&unknown), @r#"{"pool":"labs","state":"unknown","version":0,"settings":{},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":null}"#);
    let draining =
        PoolView { state: "draining".to_owned().into(), version: 4, settings, counts: None, ..view };
    let reply = PoolsReply { pools: vec![draining], counted_at: Some(1_763_683_200) };
    assert_snapshot!(text(&reply), @r#"{"pools":[{"pool":"labs","state":"draining","version":4,"settings":{"kind":"account","provider":"csp","name_prefix":"lab-"},"lease":{"duration_minutes":240,"duration_minutes_max":2880,"total_minutes_max":4320,"grace_minutes":30},"is_default":false,"counts":null}],"counted_at":1763683200}"#);
}

#[test]
fn reply_about_the_longest_pools_fits_into_a_message() {
    let start = "registry.example.com/";
    let entry = format!("{start}{}", "a".repeat(IMAGES_ALLOWED_BYTES_MAX / IMAGES_ALLOWED_MAX - start.len()));
    let settings = PoolSettings {
        kind: Some("container".to_owned()),
        template: Some("app".to_owned()),
        images: Some(ImageSettings {
            allowed: Some(vec![entry; IMAGES_ALLOWED_MAX]),
            digest_required: Some(true),
        }),
        ..PoolSettings::default()
    };
    settings.spec(&PoolName::parse("apps").unwrap()).unwrap();
    let counts = Some(PoolStats::default());
    let view = PoolView { pool: "apps".to_owned(), settings, counts, ..PoolView::default() };
    let reply = text(&PoolsReply { pools: vec![view; POOLS_MAX], counted_at: Some(1_763_683_200) });
    assert!(reply.len() < PAYLOAD_MAX * 3 / 4, "{} bytes, and no room for names", reply.len());
}
