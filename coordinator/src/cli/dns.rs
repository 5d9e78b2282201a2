//! `dns add | remove | list | settings | split | nameservers | search | apply`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{RecordBody, RecordView, Removed};
use crate::client::{Client, segment};
use crate::service::Resolving;
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
        #[arg(long = "type", value_name = "TYPE")]
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
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
    },
    /// Show every record
    List,
    /// Show where questions about other names go
    Settings,
    /// Ask resolvers of their own about a domain and all names below it
    #[command(subcommand)]
    Split(SplitCommand),
    /// Ask these resolvers about everything else, instead of each host's own; none: the host's own again
    Nameservers {
        /// Addresses, with a port if it is not 53; they may lie behind a subnet router
        resolvers: Vec<String>,
    },
    /// Search these domains for bare names, after the mesh's own; none: no others
    Search {
        /// Domains
        domains: Vec<String>,
    },
    /// Set search domains, split domains and nameservers as a JSON file says (`dns settings --json` writes one)
    Apply {
        /// The file; `-` for standard input
        file: std::path::PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SplitCommand {
    /// Set a domain's resolvers
    Add {
        /// The domain
        domain: String,
        /// Addresses, with a port if it is not 53; they may lie behind a subnet router
        #[arg(required = true)]
        resolvers: Vec<String>,
    },
    /// Look the domain up like any other again
    #[command(visible_alias = "rm")]
    Remove {
        /// The domain
        domain: String,
    },
}

pub(super) async fn run(command: DnsCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        DnsCommand::List => {
            let records: Vec<RecordView> = client.get("/api/v1/dns/records").await?;
            Ok(Output::new(&records, table(&records)))
        }
        DnsCommand::Settings => {
            let all: Resolving = client.get("/api/v1/dns/settings").await?;
            Ok(resolving(&all))
        }
        DnsCommand::Split(SplitCommand::Add { domain, resolvers }) => {
            let path = format!("/api/v1/dns/split/{}", segment(&domain));
            Ok(resolving(&client.call(Method::PUT, &path, &resolvers).await?))
        }
        DnsCommand::Split(SplitCommand::Remove { domain }) => {
            let path = format!("/api/v1/dns/split/{}", segment(&domain));
            Ok(resolving(&client.call(Method::DELETE, &path, &()).await?))
        }
        DnsCommand::Nameservers { resolvers } => {
            Ok(resolving(&client.call(Method::PUT, "/api/v1/dns/nameservers", &resolvers).await?))
        }
        DnsCommand::Search { domains } => {
            Ok(resolving(&client.call(Method::PUT, "/api/v1/dns/search", &domains).await?))
        }
        DnsCommand::Apply { file } => {
            let text = super::input::read(&file)?;
            let all: Resolving = serde_json::from_str(&text).map_err(|e| {
                Failure::new(format!("{}: {e}", file.display()))
                    .hint("`meshd-coordinator dns settings --json` shows the form")
            })?;
            Ok(resolving(&client.call(Method::PUT, "/api/v1/dns/settings", &all).await?))
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

fn resolving(all: &Resolving) -> Output {
    let mut table = Table::new(&["NAMES", "ASKED OF"]);
    for split in &all.split {
        table.row([format!("{} and below", split.domain), joined(&split.upstreams)]);
    }
    let rest =
        if all.nameservers.is_empty() { "each host's own".to_owned() } else { joined(&all.nameservers) };
    table.row(["everything else".to_owned(), rest]);
    let mut text = table.render_or("");
    if !all.search.is_empty() {
        text.push_str(&format!("Bare names are also searched in {}.\n", joined(&all.search)));
    }
    Output::new(all, text)
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
