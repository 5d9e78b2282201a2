//! `exits` and `exposures list | remove`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{ExitView, ExposureView, ExposuresRemoved};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum ExposuresCommand {
    /// Show what nodes publish on public exits, and what became of it
    List,
    /// Take what a node publishes off the exits; it stays off until it is ended there and published anew
    #[command(visible_alias = "rm")]
    Remove {
        /// The node's name
        node: String,
        /// Only this one, by the id that `list` shows
        id: Option<String>,
    },
}

pub(super) async fn exits(client: &Client) -> Result<Output, Failure> {
    let exits: Vec<ExitView> = client.get("/api/v1/exits").await?;
    let mut table = Table::new(&["NODE", "NAME", "ADDRESSES", "SERVES", "CANNOT SERVE"]);
    for e in &exits {
        let name = if e.name.is_empty() { "-".to_owned() } else { e.name.clone() };
        table.row([e.node.clone(), name, joined(&e.addresses), e.serves.to_string(), joined(&e.taken)]);
    }
    let none =
        "No public exit: start one on a machine with a public address: meshd-gateway --exit --token mesh_…";
    Ok(Output::new(&exits, table.render_or(none)))
}

pub(super) async fn run(command: ExposuresCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        ExposuresCommand::List => {
            let all: Vec<ExposureView> = client.get("/api/v1/exposures").await?;
            let mut table = Table::new(&["NODE", "ID", "WHAT", "PORT", "EXITS", "STATE"]);
            for e in &all {
                let what = if e.name.is_empty() { e.kind.clone() } else { e.name.clone() };
                let state = if e.refused.is_empty() { "published".to_owned() } else { e.refused.clone() };
                table.row([e.node.clone(), e.id.clone(), what, e.port.to_string(), joined(&e.exits), state]);
            }
            Ok(Output::new(&all, table.render_or("Nothing is published: see `meshd expose --help`.")))
        }
        ExposuresCommand::Remove { node, id } => {
            let mut path = format!("/api/v1/exposures/{}", segment(&node));
            if let Some(id) = &id {
                path = format!("{path}/{}", segment(id));
            }
            let gone: ExposuresRemoved = client.call(Method::DELETE, &path, &()).await?;
            let text = format!("{} of {node} taken off the exits", gone.removed);
            Ok(Output::new(&gone, text))
        }
    }
}
