//! `relays add | remove | list`.

use super::output::{Failure, Output};
use super::table::{Table, joined};
use crate::api::views::{RelayAdded, RelayBody, RelayView};
use crate::client::{Client, segment};
use clap::Subcommand;
use hyper::Method;

#[derive(Debug, Subcommand)]
pub(super) enum RelaysCommand {
    /// Add a relay of its own to every node's map, and print the command that starts it
    Add {
        /// How you call it
        name: String,
        /// Name or address where nodes reach it; may be given several times
        #[arg(long, required = true, value_name = "NAME|IP")]
        host: Vec<String>,
        /// Its key: `meshd-relay --show-key` on that machine prints it
        #[arg(long)]
        key: String,
        /// Its UDP port
        #[arg(long, default_value_t = 3478, value_name = "PORT")]
        udp_port: u16,
        /// Its UDP port that answers STUN only; 0: none
        #[arg(long, default_value_t = 3479, value_name = "PORT")]
        stun_port: u16,
        /// Its TCP port for TLS and WebSocket; 0: none
        #[arg(long, default_value_t = 443, value_name = "PORT")]
        tcp_port: u16,
    },
    /// Take a relay out of every node's map
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name
        name: String,
    },
    /// Show the relays, the coordinator's own included
    List,
}

pub(super) async fn run(command: RelaysCommand, client: &Client) -> Result<Output, Failure> {
    match command {
        RelaysCommand::List => {
            let relays: Vec<RelayView> = client.get("/api/v1/relays").await?;
            Ok(Output::new(&relays, table(&relays)))
        }
        RelaysCommand::Add { name, host, key, udp_port, stun_port, tcp_port } => {
            let body = RelayBody { name, hosts: host, key, udp_port, stun_port, tcp_port };
            let added: RelayAdded = client.call(Method::POST, "/api/v1/relays", &body).await?;
            let text = format!(
                "{} is in every node's map. Start it there with:\n  {}",
                added.relay.name, added.command
            );
            Ok(Output::new(&added, text))
        }
        RelaysCommand::Remove { name } => {
            client.act(Method::DELETE, &format!("/api/v1/relays/{}", segment(&name)), &()).await?;
            Ok(Output::new(&name, format!("{name} is in no node's map any more; you may stop it")))
        }
    }
}

pub(super) fn table(relays: &[RelayView]) -> String {
    let mut table = Table::new(&["NAME", "HOSTS", "UDP", "STUN", "TCP", "KEY"]);
    let port = |p: u16| if p == 0 { "-".to_owned() } else { p.to_string() };
    for r in relays {
        table.row([
            r.name.clone(),
            joined(&r.hosts),
            port(r.udp_port),
            port(r.stun_port),
            port(r.tcp_port),
            r.key.clone(),
        ]);
    }
    table.render_or("No relay: start `serve` without --no-relay, or add one with `relays add`.")
}
