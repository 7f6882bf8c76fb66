//! How commands print: tables for people, JSON for programs, once or again and again.

use clap::ValueEnum;
use contract::events::rfc3339;
use domain::UnixSeconds;
use ports::clock::{Clock as _, SystemClock};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::io::IsTerminal as _;
use std::time::Duration;

/// Default of the period of `--watch`, in seconds.
const WATCH_SECONDS_DEFAULT: &str = "2";
/// Maximum of that period, in seconds.
const WATCH_SECONDS_MAX: u64 = 3_600;
/// Clears a terminal and moves its cursor to the beginning.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Shown for a value that there is not.
pub(crate) const NONE: &str = "-";

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs.
    Json,
}

/// The arguments that select a format.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Format {
    /// The format.
    #[arg(long, value_enum, global = true)]
    output: Option<Output>,
    /// Short for `--output json`.
    #[arg(long, global = true, conflicts_with = "output")]
    json: bool,
}

/// The argument that repeats a view.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Watch {
    /// Show it again after each period, until Ctrl-C. JSON has one line for each.
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = WATCH_SECONDS_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=WATCH_SECONDS_MAX)
    )]
    watch: Option<u64>,
}

/// A result in both formats.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// As JSON in several lines.
    json: String,
    /// As JSON in one line.
    json_line: String,
    /// The lines of the table, each with its end.
    table: String,
}

// === impl Format ===

impl Format {
    /// The format; `default` if the arguments name none.
    pub(crate) const fn or(self, default: Output) -> Output {
        match self {
            Self { json: true, .. } => Output::Json,
            Self { output: Some(output), .. } => output,
            Self { output: None, .. } => default,
        }
    }

    /// Prints a result, as a table by default.
    pub(crate) fn print(self, shown: &Shown) {
        match self.or(Output::Table) {
            Output::Table => print!("{}", shown.table),
            Output::Json => println!("{}", shown.json),
        }
    }

    /// Prints a result of a command for scripts: as JSON in one line by default.
    pub(crate) fn print_line(self, shown: &Shown) {
        match self.or(Output::Json) {
            Output::Table => print!("{}", shown.table),
            Output::Json => println!("{}", shown.json_line),
        }
    }
}

// === impl Watch ===

impl Watch {
    /// Prints what `look` finds, once or until the process ends. While it repeats, a failure is printed and no end.
    ///
    /// # Errors
    /// That of `look`, unless it repeats.
    pub(crate) async fn show(
        self,
        format: Format,
        look: impl AsyncFn() -> anyhow::Result<Shown>,
    ) -> anyhow::Result<()> {
        let Some(seconds) = self.watch else {
            format.print(&look().await?);
            return Ok(());
        };
        loop {
            match (look().await, format.or(Output::Table)) {
                (Ok(shown), Output::Json) => println!("{}", shown.json_line),
                (Ok(shown), Output::Table) if std::io::stdout().is_terminal() => {
                    print!("{CLEAR}{}", shown.table);
                }
                (Ok(shown), Output::Table) => println!("{}", shown.table),
                (Err(error), _) => eprintln!("broker: {error:#}"),
            }
            SystemClock.sleep(Duration::from_secs(seconds)).await;
        }
    }
}

// === impl Shown ===

impl Shown {
    /// `reply` as JSON and as these lines.
    ///
    /// # Errors
    /// When it cannot be represented as JSON.
    pub(crate) fn of(reply: &impl Serialize, table: impl Into<String>) -> serde_json::Result<Self> {
        let mut table = table.into();
        if !table.is_empty() && !table.ends_with('\n') {
            table.push('\n');
        }
        let (json, json_line) = (serde_json::to_string_pretty(reply)?, serde_json::to_string(reply)?);
        Ok(Self { json, json_line, table })
    }

    /// `reply` as JSON and as a table with a row for each field.
    ///
    /// # Errors
    /// As for [`Shown::of`].
    pub(crate) fn fields(reply: &impl Serialize) -> serde_json::Result<Self> {
        let mut rows = Vec::new();
        collect_fields("", &serde_json::to_value(reply)?, &mut rows);
        Self::of(reply, columns(["FIELD", "VALUE"], rows))
    }
}

fn collect_fields(name: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    let under = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| collect_fields(&under(key), value, rows))
        }
        Value::Array(values) if values.iter().any(|value| value.is_object() || value.is_array()) => {
            let numbered = values.iter().enumerate();
            numbered.for_each(|(number, value)| collect_fields(&under(&number.to_string()), value, rows));
        }
        Value::Array(values) => {
            rows.push([name.to_owned(), values.iter().map(scalar).collect::<Vec<_>>().join(", ")]);
        }
        value => rows.push([name.to_owned(), scalar(value)]),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// A value, or the sign for none.
pub(crate) fn or_none(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// A moment in Unix seconds, or the sign for none.
pub(crate) fn moment(at: Option<u64>) -> String {
    or_none(at.map(|at| rfc3339(UnixSeconds::new(at))))
}

/// Rows below their headers, aligned.
pub(crate) fn columns<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    // Texts of other systems may contain line ends and control sequences.
    let plain = |cell: String| cell.replace(char::is_control, " ");
    let rows: Vec<_> = std::iter::once(headers.map(str::to_owned))
        .chain(rows.into_iter().map(|row| row.map(plain)))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
