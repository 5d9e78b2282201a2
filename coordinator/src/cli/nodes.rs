//! `nodes list | show | paths | remove | rename | approve | expire | revoke | tag`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{NodeEdit, NodeView, PathsView, milliseconds, when};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;
use meshd_proto::{Hostname, Tag};
use std::fmt::Write;

#[derive(Debug, Subcommand)]
pub(super) enum NodesCommand {
    /// Show every node
    List,
    /// Show one node in full
    Show {
        /// Name, id or mesh address
        node: String,
    },
    /// Show which ways its data goes, as it says itself
    Paths {
        /// Name, id or mesh address
        node: String,
    },
    /// Remove a node and the devices joined through it; it is cut off at once
    Remove {
        /// Name, id or mesh address
        node: String,
    },
    /// Give a node another name
    Rename {
        /// Name, id or mesh address
        node: String,
        /// The new name
        name: Hostname,
    },
    /// Let a waiting node talk to others
    Approve {
        /// Name, id or mesh address
        node: String,
    },
    /// End a node's key: it has to join again with a token, and keeps its name and addresses
    Expire {
        /// Name, id or mesh address
        node: String,
    },
    /// Cut a node off and keep it listed, so that its machine cannot join again
    Revoke {
        /// Name, id or mesh address
        node: String,
    },
    /// Replace a node's tags; without a tag it belongs to a user again
    Tag {
        /// Name, id or mesh address
        node: String,
        /// Tags, such as tag:router
        tags: Vec<Tag>,
    },
}

pub(super) async fn run(command: NodesCommand, client: &Client) -> Result<Output, Failure> {
    let path = |node: &str| format!("/api/v1/nodes/{}", segment(node));
    match command {
        NodesCommand::List => {
            let nodes: Vec<NodeView> = client.get("/api/v1/nodes").await?;
            Ok(Output::new(&nodes, table(&nodes)))
        }
        NodesCommand::Show { node } => {
            let node: NodeView = client.get(&path(&node)).await?;
            Ok(Output::new(&node, details(&node)))
        }
        NodesCommand::Paths { node } => {
            let told: PathsView = client.get(&format!("{}/paths", path(&node))).await?;
            Ok(Output::new(&told, paths(&told)))
        }
        NodesCommand::Remove { node } => {
            client.act(Method::DELETE, &path(&node), &()).await?;
            Ok(Output::done(format!("{node} is removed")))
        }
        NodesCommand::Rename { node, name } => {
            let edit = NodeEdit { name: Some(name), tags: None };
            let now: NodeView = client.call(Method::PATCH, &path(&node), &edit).await?;
            Ok(Output::new(&now, format!("{node} is now {} ({})", now.name, now.fqdn)))
        }
        NodesCommand::Tag { node, tags } => {
            let edit = NodeEdit { name: None, tags: Some(tags) };
            let now: NodeView = client.call(Method::PATCH, &path(&node), &edit).await?;
            let tags = if now.tags.is_empty() { "no tags".to_owned() } else { joined(&now.tags) };
            Ok(Output::new(&now, format!("{} has {tags}", now.name)))
        }
        NodesCommand::Approve { node } => {
            client.act(Method::POST, &format!("{}/approve", path(&node)), &()).await?;
            Ok(Output::done(format!("{node} may talk to others")))
        }
        NodesCommand::Expire { node } => {
            client.act(Method::POST, &format!("{}/expire", path(&node)), &()).await?;
            Ok(Output::done(format!("the key of {node} has ended: it joins again with a token")))
        }
        NodesCommand::Revoke { node } => {
            client.act(Method::POST, &format!("{}/revoke", path(&node)), &()).await?;
            Ok(Output::done(format!("{node} is cut off; `nodes remove {node}` forgets it")))
        }
    }
}

pub(super) fn table(nodes: &[NodeView]) -> String {
    let mut table = Table::new(&["NAME", "ADDRESS", "STATE", "BELONGS TO", "ROUTES", "PENDING"]);
    for n in nodes {
        table.row([
            n.name.to_string(),
            n.v4.to_string(),
            n.state.clone(),
            if n.tags.is_empty() { n.owner.clone() } else { joined(&n.tags) },
            joined(&n.routes),
            joined(&n.pending_routes),
        ]);
    }
    let mut text =
        table.render_or("No node yet: `meshd-coordinator token create` prints the command that joins one.");
    if let Some(n) = nodes.iter().find(|n| !n.pending_routes.is_empty()) {
        let _ = writeln!(text, "\nRoutes wait for approval: meshd-coordinator routes approve {}", n.name);
    }
    if let Some(n) = nodes.iter().find(|n| n.state == "waiting") {
        let _ = writeln!(text, "\nA node waits for approval: meshd-coordinator nodes approve {}", n.name);
    }
    text
}

pub(super) fn paths(told: &PathsView) -> String {
    let mut table = Table::new(&["PEER", "PATH", "VIA", "ROUND TRIP"]);
    for p in &told.paths {
        table.row([p.peer.to_string(), p.path.clone(), p.via.clone(), milliseconds(p.rtt_us)]);
    }
    match told.told {
        Some(at) => format!("{}\nTold {}\n", table.render_or("It talks to nobody now.").trim_end(), when(at)),
        None => "It has told nothing since it connected.\n".to_owned(),
    }
}

pub(super) fn details(n: &NodeView) -> String {
    let mut lines = vec![
        ("Name", n.fqdn.clone()),
        ("Id", n.id.to_string()),
        ("State", n.state.clone()),
        ("Addresses", format!("{}, {}", n.v4, n.v6)),
        ("Belongs to", if n.tags.is_empty() { n.owner.clone() } else { joined(&n.tags) }),
        ("Routes", joined(&n.routes)),
        ("Pending", joined(&n.pending_routes)),
        ("Key", n.key.clone()),
        ("Key ends", n.key_expires.map_or("never".to_owned(), when)),
        ("Joined", when(n.created)),
        ("Since", n.since.map(when).unwrap_or_default()),
        ("Comes from", n.remote.clone().unwrap_or_default()),
        ("Map version", n.applied_version.map(|v| v.to_string()).unwrap_or_default()),
        ("System", n.os.clone()),
        ("Client", n.client_version.clone()),
        ("Through", n.via.as_ref().map(ToString::to_string).unwrap_or_default()),
    ];
    if n.ephemeral {
        lines.push(("Ephemeral", "forgotten when it stays away".to_owned()));
    }
    let shown = lines.iter().filter(|(_, value)| !value.is_empty());
    shown.fold(String::new(), |mut out, (name, value)| {
        let _ = writeln!(out, "{name:<12} {value}");
        out
    })
}
