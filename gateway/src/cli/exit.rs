//! `meshd-gateway --exit`: a public exit of a mesh.

use super::process::{self, ProcessArgs};
use crate::acme::StandIn;
use crate::exit::{Exit, RETRY, own_addresses};
use crate::runtime::Gateway;
use crate::table::Reach;
use anyhow::{Context, Result, bail};
use clap::Args;
use meshd_node::userspace::{Node, NodeConfig};
use meshd_proto::expose::{EXIT_SECTION, ExitOffer};
use meshd_proto::localapi::Settings;
use meshd_proto::{DnsName, Hostname};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Longest token file.
const MAX_TOKEN: u64 = 4096;

#[derive(Args)]
pub(super) struct ExitArgs {
    /// A join token (mesh_…), for the first start
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// Read the join token from a file, or from standard input with -
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The exit's own public name, which people may be shown
    #[arg(long, value_name = "NAME")]
    name: Option<DnsName>,
    /// A public address of this machine; may be given several times. Found out when left out
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// The name of the node in the mesh; the machine's when left out
    #[arg(long, value_name = "NAME")]
    hostname: Option<Hostname>,
    /// UDP port of the mesh; the one of the last start, or any, when left out
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    mesh_port: u16,
    /// How long the first start waits for the mesh, in seconds
    #[arg(long, default_value_t = 60)]
    patience: u64,
    #[command(flatten)]
    process: ProcessArgs,
}

pub(super) fn run(args: ExitArgs) -> Result<()> {
    process::run(serve(args))
}

async fn serve(args: ExitArgs) -> Result<()> {
    let mut tasks = JoinSet::new();
    let log = args.process.access_log(&mut tasks)?;
    let addrs = if args.address.is_empty() { own_addresses() } else { args.address.clone() };
    if addrs.is_empty() {
        bail!("this machine has no address towards the internet: name its public one with --address");
    }
    for private in addrs.iter().filter(|ip| is_private(**ip)) {
        tracing::warn!("{private} is no public address: name the public one with --address, if there is one");
    }
    let offer = ExitOffer { name: args.name.clone(), addrs, taken: Vec::new() };
    let state = args.process.state.join("mesh");
    std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let settings =
        Settings { hostname: args.hostname.as_ref().map(ToString::to_string), ..Settings::default() };
    let mut config = NodeConfig::new(state)
        .with_settings(settings)
        .with_port(args.mesh_port)
        .with_patience(Duration::from_secs(args.patience))
        .with_exit(offer.clone());
    if let Some(token) = token(&args)? {
        config = config.with_token(&token);
    }
    let node = Node::start(config).await.context("this exit does not get into its mesh")?;
    let mut gateway = Gateway::new(Exit::dialers(&node), log, Reach::MeshOnly);
    let ready = args.process.admin(&gateway, &mut tasks).await?;
    let me = node.status().await?.me.map(|me| me.fqdn).unwrap_or_default();
    tracing::info!(node = %me, addresses = ?offer.addrs, "exit is ready");
    let mut exit = Exit::new(offer);
    let mut sections = node.sections();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut retry = tokio::time::interval(RETRY);
    sections.mark_changed();
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = retry.tick() => exit.retry(&node),
            changed = sections.changed() => {
                if changed.is_err() {
                    // The node has ended by itself: it says why.
                    node.shutdown().await.context("the node of this exit has ended")?;
                    bail!("the node of this exit has ended");
                }
                let now = sections.borrow_and_update().clone();
                exit.take(&node, &mut gateway, &StandIn, now.get(EXIT_SECTION).map(String::as_str));
            }
        }
    }
    args.process.drain(gateway, &ready).await;
    node.shutdown().await?;
    Ok(())
}

fn token(args: &ExitArgs) -> Result<Option<String>> {
    let Some(file) = &args.token_file else { return Ok(args.token.clone()) };
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(MAX_TOKEN).read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        let open = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        open.take(MAX_TOKEN).read_to_string(&mut text)?;
    }
    Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty()))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local(),
    }
}
