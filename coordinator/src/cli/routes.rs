//! `routes list | approve | unapprove`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{RouteBody, RoutesInput};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;
use meshd_proto::Prefix;

#[derive(Debug, Subcommand)]
pub(super) enum RoutesCommand {
    /// Show every advertised or approved route
    List,
    /// Let advertised routes count; without a prefix: all that the node advertises
    Approve {
        /// The node they lie behind
        node: String,
        /// Prefixes such as 192.168.1.0/24; 0.0.0.0/0 for an exit node
        prefixes: Vec<Prefix>,
    },
    /// Take an approval back; without a prefix: all of the node
    Unapprove {
        /// The node they lie behind
        node: String,
        /// Prefixes such as 192.168.1.0/24; 0.0.0.0/0 for an exit node
        prefixes: Vec<Prefix>,
    },
}

pub(super) async fn run(command: RoutesCommand, client: &Client) -> Result<Output, Failure> {
    let (node, prefixes, verb) = match command {
        RoutesCommand::List => {
            let routes: Vec<RouteBody> = client.get("/api/v1/routes").await?;
            return Ok(Output::new(&routes, table(&routes)));
        }
        RoutesCommand::Approve { node, prefixes } => (node, prefixes, "approve"),
        RoutesCommand::Unapprove { node, prefixes } => (node, prefixes, "unapprove"),
    };
    let path = format!("/api/v1/nodes/{}/routes/{verb}", segment(&node));
    let routes: Vec<RouteBody> = client.call(Method::POST, &path, &RoutesInput { prefixes }).await?;
    Ok(Output::new(&routes, decided(&node, verb == "approve", &routes)))
}

pub(super) fn decided(node: &str, approved: bool, routes: &[RouteBody]) -> String {
    let list: Vec<Prefix> = routes.iter().filter(|r| r.approved == approved).map(|r| r.prefix).collect();
    if approved {
        format!("{node} routes {}", joined(&list))
    } else {
        format!(
            "{node} no longer routes {}",
            if list.is_empty() { "anything".to_owned() } else { joined(&list) }
        )
    }
}

pub(super) fn table(routes: &[RouteBody]) -> String {
    let mut table = Table::new(&["PREFIX", "NODE", "STATE"]);
    for r in routes {
        table.row([r.prefix.to_string(), r.node.to_string(), r.state.clone()]);
    }
    let mut text = table
        .render_or("No route yet: a node offers one with `meshd set --advertise-routes=192.168.1.0/24`.");
    if let Some(r) = routes.iter().find(|r| r.state == "pending") {
        text.push_str(&format!("\nApprove with: meshd-coordinator routes approve {} {}\n", r.node, r.prefix));
    }
    text
}
