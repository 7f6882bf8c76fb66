//! The files that a run writes.

use crate::tool::{Transport, claim};
use bench::samples::HEADER;
use harness::rig::Plan;

#[tokio::test]
async fn samples_and_plot_contain_every_measured_call() {
    let rig = Plan::new(12).start().await;
    let folder = tempfile::tempdir().unwrap();
    let (samples, picture) = (folder.path().join("samples.csv"), folder.path().join("claims.svg"));
    let files = ["--samples", samples.to_str().unwrap(), "--svg", picture.to_str().unwrap()];
    let mode = ["--callers", "2", "--claims", "10", "--replay"];
    let report = claim(&rig, Transport::Http, &[&mode[..], &files].concat()).await;

    let text = std::fs::read_to_string(samples).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(HEADER));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 20);
    assert_eq!(lines.iter().filter(|line| line.ends_with(",created,claim")).count(), 10);
    assert_eq!(lines.iter().filter(|line| line.ends_with(",existing,replay")).count(), 10);
    for (line, sample) in lines.iter().zip(&report.samples) {
        let times: Vec<u64> = line.split(',').take(3).map(|time| time.parse().unwrap()).collect();
        assert_eq!(times, [sample.intended_start_us, sample.start_us, sample.latency_us]);
    }

    let svg = std::fs::read_to_string(picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    // A dot for each call, and four in the legend.
    assert_eq!(svg.matches("<circle").count(), 24);
    rig.stop().await;
}

#[tokio::test]
async fn json_report_has_every_figure_and_no_samples() {
    let rig = Plan::new(5).start().await;
    let report = claim(&rig, Transport::Nats, &["--burst", "5"]).await;
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["calls"][0]["call"], "claim");
    assert_eq!(json["calls"][0]["outcome"], "created");
    assert_eq!(json["calls"][0]["count"], 5);
    assert!(json["calls"][0]["p999_us"].as_u64().unwrap() <= json["calls"][0]["max_us"].as_u64().unwrap());
    assert_eq!(json["check"]["winners"], 5);
    assert!(json.get("samples").is_none());
    rig.stop().await;
}
