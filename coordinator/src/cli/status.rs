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
    if let Some(certificate) = &s.certificate {
        let names = joined(&certificate.names);
        match (certificate.ends, &certificate.trouble) {
            (Some(ends), None) => out.push_str(&format!("Certificate for {names} until {}\n", when(ends))),
            (None, None) => out.push_str(&format!("Certificate for {names} is being ordered\n")),
            (ends, Some(why)) => {
                let stands = ends.map_or_else(
                    || "a self-made one stays".to_owned(),
                    |e| format!("the last one ends {}", when(e)),
                );
                let again = certificate.again.map(when).unwrap_or_default();
                out.push_str(&format!("No new certificate for {names}: {why}; {stands}; next try {again}\n"));
            }
        }
    }
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
