//! `backup` and `restore`.

use super::output::{Failure, Output};
use crate::api::views::BackupInput;
use crate::client::Client;
use crate::clock;
use crate::store::{StateDir, backup as store_backup};
use clap::Args;
use hyper::Method;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// A new file; it holds the coordinator's keys, so keep it as safe as the machine itself
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// A file that `backup` made
    file: PathBuf,
    /// Where database and keys are kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/meshd-coordinator",
        env = "MESHD_COORDINATOR_STATE"
    )]
    state_dir: PathBuf,
}

pub(super) async fn backup(args: &BackupArgs, client: &Client) -> Result<Output, Failure> {
    let path = std::path::absolute(&args.file)
        .map_err(|e| Failure::new(format!("{} is no usable path: {e}", args.file.display())))?;
    client.act(Method::POST, "/api/v1/backup", &BackupInput { path: path.clone() }).await?;
    let text = format!("{} is written; it holds the coordinator's keys", path.display());
    Ok(Output::new(&BackupInput { path }, text))
}

pub(super) async fn restore(args: &RestoreArgs) -> Result<Output, Failure> {
    let dir = StateDir::open(&args.state_dir)?;
    let restored = store_backup::restore(&dir, &args.file, clock::unix_now()).await?;
    let mut text = format!("{} is restored as epoch {}", args.file.display(), restored.epoch);
    if let Some(previous) = &restored.previous {
        text.push_str(&format!("\nthe database before it is kept as {}", previous.display()));
    }
    text.push_str("\nstart the coordinator; nodes take the restored state when they connect");
    let json = serde_json::json!({ "epoch": restored.epoch, "previous": restored.previous });
    Ok(Output::new(&json, text))
}
