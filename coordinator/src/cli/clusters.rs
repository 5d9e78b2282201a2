//! `clusters add | list | services | token | remove`.

use super::duration;
use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{ClusterInput, ClusterTokenInput, NewApiTokenView, when};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;
use meshd_proto::cluster::{AddressRange, ClusterState};

#[derive(Debug, Subcommand)]
pub(super) enum ClustersCommand {
    /// Make a Kubernetes cluster known and delegate address ranges to it; again: give it other ranges
    Add {
        /// Its name: names of its Services lie beneath NAME.<mesh>.internal
        name: String,
        /// Addresses for its Services: 10.98.0.0/24 or 10.98.0.50-10.98.0.99; may be given several times
        #[arg(long = "range", required = true, value_name = "RANGE")]
        ranges: Vec<AddressRange>,
    },
    /// Show clusters with their ranges
    List,
    /// Show what a cluster publishes
    Services {
        /// The cluster
        name: String,
    },
    /// Make the credential of a cluster's operator and print it, this once
    Token {
        /// The cluster
        name: String,
        /// How long it is good for: 90d, 365d
        #[arg(long, value_name = "SPAN", default_value = "365d", value_parser = duration::seconds)]
        expires: u64,
    },
    /// Forget a cluster: what it publishes goes, and its operators' credentials open nothing any more
    #[command(visible_alias = "rm")]
    Remove {
        /// The cluster
        name: String,
    },
}

fn path(name: &str, rest: &str) -> String {
    format!("/api/v1/clusters/{}{rest}", segment(name))
}

pub(super) async fn run(command: ClustersCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        ClustersCommand::Add { name, ranges } => {
            let body = ClusterInput { ranges };
            let state: ClusterState = client.call(Method::PUT, &path(&name, ""), &body).await?;
            let text = format!(
                "Cluster {name} may announce {}. Its nodes join with `meshd-coordinator token create --tag {}`; \
                 its operator's credential is made by `meshd-coordinator clusters token {name}`.",
                joined(&state.ranges),
                state.tag
            );
            Ok(Output::new(&state, text))
        }
        ClustersCommand::List => {
            let clusters: Vec<ClusterState> = client.get("/api/v1/clusters").await?;
            let mut table = Table::new(&["NAME", "RANGES", "NODES", "SERVICES", "DOMAIN"]);
            for c in &clusters {
                table.row([
                    c.name.to_string(),
                    joined(&c.ranges),
                    c.nodes.len().to_string(),
                    c.services.len().to_string(),
                    c.domain.to_string(),
                ]);
            }
            let text = table.render_or("No cluster yet: `clusters add NAME --range 10.98.0.0/24` makes one.");
            Ok(Output::new(&clusters, text))
        }
        ClustersCommand::Services { name } => {
            let state: ClusterState = client.get(&path(&name, "/services")).await?;
            let mut table = Table::new(&["SERVICE", "ADDRESSES", "PORTS", "NODES", "NAME"]);
            for s in &state.services {
                let ports: Vec<String> = s.port_numbers().map(|(t, p)| format!("{p}/{t}")).collect();
                table.row([
                    s.key().to_string(),
                    joined(&s.addresses),
                    joined(&ports),
                    s.nodes().len().to_string(),
                    s.alias.as_ref().map_or("-".to_owned(), ToString::to_string),
                ]);
            }
            Ok(Output::new(&state, table.render_or("This cluster publishes no service.")))
        }
        ClustersCommand::Token { name, expires } => {
            let body = ClusterTokenInput { lifetime: expires };
            let new: NewApiTokenView = client.call(Method::POST, &path(&name, "/token"), &body).await?;
            let text = format!(
                "{}\n\nFor the operator of {name} alone, until {}; it is shown this once.\n",
                new.secret,
                when(new.stored.expires)
            );
            Ok(Output::new(&new, text))
        }
        ClustersCommand::Remove { name } => {
            client.act(Method::DELETE, &path(&name, ""), &()).await?;
            Ok(Output::new(&name, format!("{name} is forgotten, and what it published is gone")))
        }
    }
}
