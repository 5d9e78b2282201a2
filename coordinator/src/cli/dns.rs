//! `dns add | remove | list`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{RecordBody, RecordView, Removed};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum DnsCommand {
    /// Add a value to a name
    Add {
        /// A name of the mesh's domain, such as nas.home.internal or nas
        name: String,
        /// An address, or a name for a CNAME
        value: String,
        /// Record type [default: as the value tells]
        #[arg(long = "type", value_name = "A|AAAA|CNAME|TXT")]
        kind: Option<String>,
        /// Seconds that answers may be cached
        #[arg(long)]
        ttl: Option<u32>,
    },
    /// Remove a name's records, or one value of them
    #[command(visible_alias = "rm")]
    Remove {
        /// The name
        name: String,
        /// Only this value
        value: Option<String>,
        /// Only this type
        #[arg(long = "type", value_name = "A|AAAA|CNAME|TXT")]
        kind: Option<String>,
    },
    /// Show every record
    List,
}

pub(super) async fn run(command: DnsCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        DnsCommand::List => {
            let records: Vec<RecordView> = client.get("/api/v1/dns/records").await?;
            Ok(Output::new(&records, table(&records)))
        }
        DnsCommand::Add { name, value, kind, ttl } => {
            let body = RecordBody { name, kind, value, ttl };
            let set: RecordView = client.call(Method::POST, "/api/v1/dns/records", &body).await?;
            let text = format!("{} {} {}", set.name, set.kind, joined(&set.values));
            Ok(Output::new(&set, text))
        }
        DnsCommand::Remove { name, value, kind } => {
            let mut query: Vec<String> = Vec::new();
            query.extend(kind.map(|k| format!("type={}", segment(&k))));
            query.extend(value.map(|v| format!("value={}", segment(&v))));
            let path = format!("/api/v1/dns/records/{}?{}", segment(&name), query.join("&"));
            let gone: Removed = client.call(Method::DELETE, path.trim_end_matches('?'), &()).await?;
            let what =
                if gone.removed == 1 { "one value".to_owned() } else { format!("{} values", gone.removed) };
            Ok(Output::new(&gone, format!("{what} of {name} removed")))
        }
    }
}

pub(super) fn table(records: &[RecordView]) -> String {
    let mut table = Table::new(&["NAME", "TYPE", "TTL", "VALUES"]);
    for r in records {
        table.row([r.name.to_string(), r.kind.clone(), r.ttl.to_string(), joined(&r.values)]);
    }
    table.render_or(
        "No record yet: add one with `meshd-coordinator dns add nas 192.168.1.10`. Nodes have names by themselves.",
    )
}
