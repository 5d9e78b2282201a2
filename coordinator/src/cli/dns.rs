//! `dns add | remove | list | explain | settings | split | nameservers | search | export | apply`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{RecordBody, RecordView, Removed};
use crate::client::{Client, segment};
use crate::service::{Declared, NameExplained, Resolving};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum DnsCommand {
    /// Add a value to a name
    Add {
        /// A name of the mesh's domain, such as nas.home.internal or nas; `*.d` is every name below d that no
        /// other name stands in the way of (the DNS's own wildcard, not d itself), `suffix:d` is d and all below it
        name: String,
        /// An address, or a name for a CNAME
        value: String,
        /// Record type [default: as the value tells]
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// Seconds that answers may be cached
        #[arg(long)]
        ttl: Option<u32>,
        #[command(flatten)]
        who: Who,
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
        #[command(flatten)]
        who: Who,
    },
    /// Show every record
    List,
    /// Say what a name is for a node, or for each node of a user, and why
    Explain {
        /// The name; one word means one in the mesh's domain
        name: String,
        /// Record type
        #[arg(default_value = "A")]
        kind: String,
        /// Name, id or address of a node, or a user
        #[arg(long = "as", value_name = "NODE|USER")]
        who: String,
    },
    /// Show where questions about other names go
    Settings,
    /// Ask resolvers of their own about a domain and all names below it
    #[command(subcommand)]
    Split(SplitCommand),
    /// Ask these resolvers about everything else, instead of each host's own; none: the host's own again
    Nameservers {
        /// Addresses, with a port if it is not 53; they may lie behind a subnet router
        resolvers: Vec<String>,
        #[command(flatten)]
        who: Who,
    },
    /// Search these domains for bare names, after the mesh's own; none: no others
    Search {
        /// Domains
        domains: Vec<String>,
        #[command(flatten)]
        who: Who,
    },
    /// Print all names as the JSON file that `dns apply` reads
    Export,
    /// Set all names as a JSON file says (`dns export` writes one); records, and what is bound to some, stay where the file does not speak of them
    Apply {
        /// The file; `-` for standard input
        file: std::path::PathBuf,
    },
}

/// For whom something is set.
#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// Only for this user, group:… or tag:…; may be repeated [default: for everybody]
    #[arg(long = "for", value_name = "WHO", value_delimiter = ',')]
    who: Vec<String>,
}

impl Who {
    /// As the end of a request's path.
    fn query(&self) -> String {
        if self.who.is_empty() { String::new() } else { format!("?for={}", segment(&self.who.join(","))) }
    }
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
        #[command(flatten)]
        who: Who,
    },
    /// Look the domain up like any other again
    #[command(visible_alias = "rm")]
    Remove {
        /// The domain
        domain: String,
        #[command(flatten)]
        who: Who,
    },
}

pub(super) async fn run(command: DnsCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        DnsCommand::List => {
            let records: Vec<RecordView> = client.get("/api/v1/dns/records").await?;
            Ok(Output::new(&records, table(&records)))
        }
        DnsCommand::Settings => {
            let all: Declared = client.get("/api/v1/dns/declared").await?;
            Ok(settings(&all))
        }
        DnsCommand::Export => {
            let all: Declared = client.get("/api/v1/dns/declared").await?;
            let text = serde_json::to_string_pretty(&all).map_err(|e| Failure::new(e.to_string()))?;
            Ok(Output::new(&all, text))
        }
        DnsCommand::Explain { name, kind, who } => {
            let (name, kind, who) = (segment(&name), segment(&kind), segment(&who));
            let path = format!("/api/v1/dns/explain?name={name}&type={kind}&as={who}");
            let explained: NameExplained = client.get(&path).await?;
            Ok(Output::new(&explained, explained_text(&explained)))
        }
        DnsCommand::Split(SplitCommand::Add { domain, resolvers, who }) => {
            let path = format!("/api/v1/dns/split/{}{}", segment(&domain), who.query());
            Ok(resolving(&client.call(Method::PUT, &path, &resolvers).await?))
        }
        DnsCommand::Split(SplitCommand::Remove { domain, who }) => {
            let path = format!("/api/v1/dns/split/{}{}", segment(&domain), who.query());
            Ok(resolving(&client.call(Method::DELETE, &path, &()).await?))
        }
        DnsCommand::Nameservers { resolvers, who } => {
            let path = format!("/api/v1/dns/nameservers{}", who.query());
            Ok(resolving(&client.call(Method::PUT, &path, &resolvers).await?))
        }
        DnsCommand::Search { domains, who } => {
            let path = format!("/api/v1/dns/search{}", who.query());
            Ok(resolving(&client.call(Method::PUT, &path, &domains).await?))
        }
        DnsCommand::Apply { file } => {
            let text = super::input::read(&file)?;
            let all: Declared = serde_json::from_str(&text).map_err(|e| {
                Failure::new(format!("{}: {e}", file.display()))
                    .hint("`meshd-coordinator dns export` shows the form")
            })?;
            Ok(settings(&client.call(Method::PUT, "/api/v1/dns/declared", &all).await?))
        }
        DnsCommand::Add { name, value, kind, ttl, who } => {
            let body = RecordBody { name, kind, value, ttl, who: who.who };
            let set: RecordView = client.call(Method::POST, "/api/v1/dns/records", &body).await?;
            let mut text = format!("{} {} {}", set.name, set.kind, joined(&set.values));
            if !set.who.is_empty() {
                text.push_str(&format!(" for {}", joined(&set.who)));
            }
            Ok(Output::new(&set, text))
        }
        DnsCommand::Remove { name, value, kind, who } => {
            let mut query: Vec<String> = Vec::new();
            query.extend(kind.map(|k| format!("type={}", segment(&k))));
            query.extend(value.map(|v| format!("value={}", segment(&v))));
            query.extend((!who.who.is_empty()).then(|| format!("for={}", segment(&who.who.join(",")))));
            let path = format!("/api/v1/dns/records/{}?{}", segment(&name), query.join("&"));
            let gone: Removed = client.call(Method::DELETE, path.trim_end_matches('?'), &()).await?;
            let what =
                if gone.removed == 1 { "one value".to_owned() } else { format!("{} values", gone.removed) };
            Ok(Output::new(&gone, format!("{what} of {name} removed")))
        }
    }
}

/// Where questions go, for everybody and for those who have resolvers of their own.
fn settings(all: &Declared) -> Output {
    let mut table = Table::new(&["FOR", "NAMES", "ASKED OF"]);
    let mut searched = String::new();
    let bound = all.bound.iter().flatten();
    let bound = bound.map(|b| (joined(&b.who), &b.split, &b.nameservers, &b.search));
    let everybody = ("everybody".to_owned(), &all.split, &all.nameservers, &all.search);
    for (place, (who, split, nameservers, search)) in [everybody].into_iter().chain(bound).enumerate() {
        for split in split {
            table.row([who.clone(), format!("{} and below", split.domain), joined(&split.upstreams)]);
        }
        if place == 0 && nameservers.is_empty() {
            table.row([who.clone(), "everything else".to_owned(), "each host's own".to_owned()]);
        } else if !nameservers.is_empty() {
            table.row([who.clone(), "everything else".to_owned(), joined(nameservers)]);
        }
        if !search.is_empty() {
            searched.push_str(&format!("Bare names are also searched in {} ({who}).\n", joined(search)));
        }
    }
    Output::new(all, table.render_or("") + &searched)
}

fn explained_text(explained: &NameExplained) -> String {
    let mut text = String::new();
    for seen in &explained.seen {
        text.push_str(&format!(
            "{} {} for {}: {}\n",
            explained.name,
            explained.kind,
            joined(&seen.nodes),
            seen.outcome
        ));
        for line in seen.records.iter().chain(&seen.steps) {
            text.push_str(&format!("  {line}\n"));
        }
        if !seen.bound.is_empty() {
            text.push_str(&format!("  bound names hold for {}\n", seen.bound.join(" and then for ")));
        }
    }
    text
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
    let columns = ["NAME", "TYPE", "TTL", "VALUES", "FOR"];
    // While all are for everybody, nothing is said of it.
    let some_bound = records.iter().any(|r| !r.who.is_empty());
    let mut table = Table::new(if some_bound { &columns[..] } else { &columns[..4] });
    for r in records {
        let who = if r.who.is_empty() { "everybody".to_owned() } else { joined(&r.who) };
        let who = some_bound.then_some(who);
        let rest = [r.name.to_string(), r.kind.clone(), r.ttl.to_string(), joined(&r.values)];
        table.row(rest.into_iter().chain(who));
    }
    table.render_or(
        "No record yet: add one with `meshd-coordinator dns add nas 192.168.1.10`. Nodes have names by themselves.",
    )
}
