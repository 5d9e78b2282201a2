//! `audit list | verify`.

use super::output::{Failure, Output};
use super::table::Table;
use crate::api::views::{AuditChain, AuditView, when};
use crate::client::Client;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show the newest entries, newest first
    List {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only entries before this one
        #[arg(long, value_name = "ID")]
        before: Option<u64>,
    },
    /// Check that no entry was changed, taken out or put in
    Verify,
}

pub(super) async fn run(command: AuditCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        AuditCommand::List { limit, before } => {
            let before = before.map(|id| format!("&before={id}")).unwrap_or_default();
            let entries: Vec<AuditView> = client.get(&format!("/api/v1/audit?limit={limit}{before}")).await?;
            Ok(Output::new(&entries, table(&entries)))
        }
        AuditCommand::Verify => {
            let chain: AuditChain = client.get("/api/v1/audit/verify").await?;
            if !chain.whole {
                return Err(Failure::new(format!(
                    "the audit log was tampered with: entry {} does not fit the one before",
                    chain.entries + 1
                ))
                .hint("compare it with a backup; entries before that one are whole"));
            }
            let moved = match chain.first {
                0 | 1 => String::new(),
                first => format!(" (those before entry {first} are in files of the state directory)"),
            };
            let text = format!("{} entries, none changed{moved}\nnewest hash {}", chain.entries, chain.head);
            Ok(Output::new(&chain, text))
        }
    }
}

pub(super) fn table(entries: &[AuditView]) -> String {
    let mut table = Table::new(&["ID", "AT", "WHO", "ACTION", "SUBJECT", "DETAIL"]);
    for e in entries {
        table.row([
            e.id.to_string(),
            when(e.at),
            e.actor.clone(),
            e.action.clone(),
            e.subject.clone(),
            e.detail.clone(),
        ]);
    }
    table.render_or("The audit log is empty.")
}
