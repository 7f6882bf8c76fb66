use super::*;
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    watch: Watch,
}

fn parse(arguments: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from([&["broker"], arguments].concat())
}

#[test]
fn rows_are_aligned_below_their_headers() {
    let rows = [["main", "ü"], ["a\n\u{1b}[1mb", "2"]].map(|row| row.map(str::to_owned));
    assert_eq!(columns(["POOL", "N"], rows), "POOL     N\nmain     ü\na  [1mb  2\n");
    assert_eq!(columns(["POOL", "N"], []), "POOL  N\n");
}

#[test]
fn fields_of_any_reply_are_rows() {
    let reply = serde_json::json!({"a": {"b": null, "c": [1, 2]}, "d": [{"e": "x"}, {"e": true}]});
    let shown = Shown::fields(&reply).unwrap();
    assert_eq!(shown.table, "FIELD  VALUE\na.b    -\na.c    1, 2\nd.0.e  x\nd.1.e  true\n");
    assert_eq!(shown.json_line, reply.to_string());
}

#[test]
fn format_and_period_are_optional() {
    for (arguments, output, watch) in [
        (&[][..], Output::Table, None),
        (&["--json"], Output::Json, None),
        (&["--output", "json", "--watch"], Output::Json, Some(2)),
        (&["--output", "table", "--watch", "5"], Output::Table, Some(5)),
        // The former name.
        (&["--output", "text"], Output::Table, None),
    ] {
        let Arguments { format, watch: Watch { watch: period } } = parse(arguments).unwrap();
        assert_eq!((format.or(Output::Table), period), (output, watch), "{arguments:?}");
    }
    for wrong in [&["--output", "yaml"][..], &["--json", "--output", "table"], &["--watch", "0"]] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
