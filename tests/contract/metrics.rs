//! The metrics: docs/metrics.md equals what the program prints, and a fleet exports no other metric.

use crate::configuration::assert_page;
use crate::markdown::{Document, quoted};
use broker::operate::metrics_page;
use domain::StateName;
use harness::rig::{Plan, Rig};
use prometheus::proto::MetricFamily;
use runtime::predecessor::metrics::{Exporter, FORMER_METRICS};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = "docs/metrics.md";

/// Type and labels of a metric.
type Shape = (String, BTreeSet<String>);

#[test]
fn metrics_page_matches_the_program_output() {
    assert_page(PAGE, &metrics_page().unwrap(), "metrics");
}

#[test]
fn names_and_help_follow_prometheus_conventions() {
    let mut names = BTreeSet::new();
    for row in Document::read(PAGE).all_rows() {
        let (name, kind, help) = (quoted(&row[0]).concat(), row[1].as_str(), &row[3]);
        assert!(names.insert(name.clone()), "{name} is there twice");
        assert!(name.starts_with("broker_"), "{name}");
        let is_former = FORMER_METRICS.iter().any(|former| former.name == name);
        assert!(
            is_former || name.ends_with("_total") == (kind == "counter"),
            "{name}: a counter, and only one, ends in _total"
        );
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}: histograms count seconds");
        assert!(kind != "counter" || !name.contains("_seconds"), "{name}: a span is a histogram or a gauge");
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} is {kind}");
        assert!(help.len() > 10 && !help.ends_with('.'), "{name}: {help:?}");
    }
}

#[test]
fn every_metric_of_the_predecessor_is_made_from_one_that_exists() {
    let listed = Document::read(PAGE).names("Names of the predecessor", 0);
    assert_eq!(listed, FORMER_METRICS.iter().map(|former| former.name.to_owned()).collect());
}

#[tokio::test]
async fn running_fleet_exports_the_documented_metrics() {
    let rig = Plan::new(6).start().await;
    let claim = rig.api.allocate("student-1").await;
    rig.api.release(claim.sandbox(), "student-1").await;
    rig.until_state(claim.sandbox(), StateName::Deleted).await;
    let rows = Document::read(PAGE).all_rows();
    let written: BTreeMap<String, Shape> = rows
        .iter()
        .map(|row| (quoted(&row[0]).concat(), (row[1].clone(), quoted(&row[2]).into_iter().collect())))
        .collect();
    rig.census().await;
    for (name, expected) in [
        ("broker_pool_total", 5.0),
        ("broker_pool_available", 5.0),
        ("broker_allocate_total", 1.0),
        ("broker_allocate_idempotent_hits_total", 0.0),
        ("broker_deletion_marked_total", 1.0),
        ("broker_cleanup_deleted_total", 1.0),
        ("broker_cleanup_failed_total", 0.0),
    ] {
        assert_eq!(former(&rig, name), Some(expected), "{name}");
    }
    let gathered = Exporter::new(rig.registry.clone(), true).gather();
    let shown: BTreeMap<String, Shape> =
        gathered.iter().map(|family| (family.name().to_owned(), shape(family))).collect();
    for (name, shape) in &shown {
        assert_eq!(written.get(name), Some(shape), "{name}");
    }
    // Two claims, a release and a few ticks change nearly all of them.
    assert!(shown.len() >= 10, "only {shown:?}");
    rig.stop().await;
}

/// The first series of a metric of the predecessor.
fn former(rig: &Rig, name: &str) -> Option<f64> {
    let families = Exporter::new(rig.registry.clone(), true).gather();
    let family = families.iter().find(|family| family.name() == name)?;
    let series = family.get_metric().first()?;
    Some(series.get_counter().get_value().max(series.get_gauge().get_value()))
}

fn shape(family: &MetricFamily) -> Shape {
    let kind = format!("{:?}", family.get_field_type()).to_lowercase();
    let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
    (kind, labels.map(|label| label.name().to_owned()).collect())
}
