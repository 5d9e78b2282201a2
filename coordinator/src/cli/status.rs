//! `status` and `version`.

use super::output::{Failure, Output};
use super::table::joined;
use crate::api::views::{StatusView, when};
use crate::client::Client;

pub(super) async fn run(client: &Client) -> Result<Output, Failure> {
    let status: StatusView = client.get("/api/v1/status").await?;
    Ok(Output::new(&status, text(&status)))
}

pub(super) fn text(s: &StatusView) -> String {
    let mut out = format!(
        "Mesh {} ({}), {}, {}\nReached at {}\nNodes {}, online {}\nMap version {}, running since {}\n",
        s.mesh,
        s.domain,
        s.prefix_v4,
        s.prefix_v6,
        joined(&s.addresses),
        s.nodes,
        s.online,
        s.map_version,
        when(s.started),
    );
    if s.waiting > 0 {
        out.push_str(&format!("{} nodes wait for approval: meshd-coordinator nodes list\n", s.waiting));
    }
    if s.pending_routes > 0 {
        out.push_str(&format!(
            "{} routes wait for approval: meshd-coordinator routes list\n",
            s.pending_routes
        ));
    }
    out
}

pub(super) fn version() -> Output {
    let version = env!("CARGO_PKG_VERSION");
    let json = serde_json::json!({ "name": "meshd-coordinator", "version": version });
    Output::new(&json, format!("meshd-coordinator {version}"))
}
