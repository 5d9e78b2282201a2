//! `backup` and `restore`.

use super::output::{Failure, Output};
use crate::client::Client;
use crate::clock;
use crate::store::{StateDir, backup as store_backup};
use clap::Args;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
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
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("{} is there already and stays: name another file", args.file.display()))
        }
        _ => Failure::new(format!("cannot write {}: {e}", args.file.display())),
    };
    // Made first: a coordinator should not be asked for its keys when they cannot be kept.
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file).map_err(failed)?;
    let written = match client.fetch("/api/v1/backup").await {
        Ok(bytes) => file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed),
        Err(e) => Err(e.into()),
    };
    if let Err(failure) = written {
        let _ = std::fs::remove_file(&args.file);
        return Err(failure);
    }
    let text = format!("{} is written; it holds the coordinator's keys", args.file.display());
    Ok(Output::new(&serde_json::json!({ "path": args.file }), text))
}

/// What a restore takes back without anybody having asked for it.
const FORGOTTEN: &str = "what was changed after the backup is forgotten: nodes and tokens that were revoked or removed since \
                         then count again, and so do older passwords and policies. Look through `nodes list`, `token list` \
                         and `users list`. Older audit files and the TLS key are not in a backup: those of the state \
                         directory stay as they are";

pub(super) async fn restore(args: &RestoreArgs) -> Result<Output, Failure> {
    let dir = StateDir::open(&args.state_dir)?;
    let restored = store_backup::restore(&dir, &args.file, clock::unix_now()).await?;
    let mut text = format!("{} is restored as epoch {}", args.file.display(), restored.epoch);
    if let Some(previous) = &restored.previous {
        text.push_str(&format!("\nthe database before it is kept as {}", previous.display()));
    }
    text.push_str("\nstart the coordinator; nodes take the restored state when they connect");
    text.push_str(&format!("\n\nwarning: {FORGOTTEN}"));
    let json = serde_json::json!({
        "epoch": restored.epoch, "previous": restored.previous, "warnings": [FORGOTTEN],
    });
    Ok(Output::new(&json, text))
}
