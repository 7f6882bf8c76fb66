//! `broker store`: the embedded table as a separate process, for roles and fleets that use it (`DYNAMODB_ENDPOINT`,
//! `broker up --dynamodb-endpoint`).

use crate::data::DataDir;
use crate::embedded::EmbeddedTable;
use runtime::settings::{Env, Settings};
use runtime::shutdown::Lifecycle;
use runtime::telemetry::{LogFormat, TelemetryConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Time for calls in progress to finish.
const GRACE: Duration = Duration::from_secs(4);

/// Its listen address and its folder.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Listen address of the table (port 0: a free one). It checks no credentials: keep it on this machine.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// Folder of the state: the same one as for `broker up`, for one process at a time.
    #[arg(long, value_name = "DIR", default_value = ".broker")]
    pub data: PathBuf,
}

/// Serves the table until a signal.
///
/// # Errors
/// A port in use; a directory that is unusable or in use; a file that cannot be opened.
pub async fn run(options: Options, env: &dyn Env) -> anyhow::Result<()> {
    let mut settings = Settings::new(env);
    let telemetry = TelemetryConfig::read(&mut settings, LogFormat::Text);
    settings.finish(telemetry)?.install();
    let data = DataDir::open(&options.data, false)?;
    let table = EmbeddedTable::start_at(Some(&data.table()), options.listen).await?;
    println!(
        "the table is at {} (DYNAMODB_ENDPOINT); its file is {}",
        table.endpoint,
        data.table().display()
    );
    let mut lifecycle = Lifecycle::new(GRACE);
    let (stop, ended) = (lifecycle.stop(), table.ended());
    lifecycle.start("table", async move {
        tokio::select! {
            () = ended.cancelled() => Err(std::io::Error::other("the table stopped by itself; its log says why")),
            () = stop.cancelled() => Ok(()),
        }
    });
    let ended = lifecycle.run().await;
    table.stop().await;
    Ok(ended?)
}
