//! Logging.

use std::fmt;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::settings::Settings;

/// The log filter and format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// The filter, in the syntax of `tracing-subscriber`.
    pub filter: String,
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, on stdout.
    Json,
    /// Text for people, on stderr.
    Text,
}

/// The default of `LOG_FILTER`: our own lines at `info`, and warnings of the libraries.
pub const DEFAULT_FILTER: &str =
    "info,async_nats=warn,hyper=warn,reqwest=warn,aws_config=error,aws_smithy_runtime=warn,dynoxide=error";

/// An error with its causes on one line. Log an error where it is handled.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

// === impl TelemetryConfig ===

impl TelemetryConfig {
    /// Reads `LOG_FILTER` and `LOG_FORMAT`.
    pub fn read(settings: &mut Settings<'_>, default_format: LogFormat) -> Self {
        let filter = settings
            .parsed(
                "LOG_FILTER",
                DEFAULT_FILTER,
                "filter of log lines (`level` or `target=level`, separated by commas)",
                |text| {
                    EnvFilter::try_new(text)
                        .map(|_| text.to_owned())
                        .map_err(|error| format!("is no log filter: {error}"))
                },
            )
            .unwrap_or_else(|| DEFAULT_FILTER.to_owned());
        let default = match default_format {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        };
        let format = settings
            .parsed("LOG_FORMAT", default, "`json` (stdout) or `text` (stderr)", |text| match text {
                "json" => Ok(LogFormat::Json),
                "text" => Ok(LogFormat::Text),
                _ => Err("must be json or text".to_owned()),
            })
            .unwrap_or(default_format);
        Self { filter, format }
    }

    /// Installs the logger; only the first call of a process has an effect.
    pub fn install(&self) {
        let filter = EnvFilter::try_new(&self.filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let registry = tracing_subscriber::registry().with(filter);
        // A second installation (several fleets in one test process) keeps the first.
        let _ = match self.format {
            LogFormat::Json => {
                registry.with(tracing_subscriber::fmt::layer().json().flatten_event(true)).try_init()
            }
            LogFormat::Text => registry
                .with(
                    tracing_subscriber::fmt::layer()
                        .with_writer(std::io::stderr)
                        .with_ansi(std::io::stderr().is_terminal())
                        .with_target(false),
                )
                .try_init(),
        };
    }
}

// === impl Chain ===

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
