//! `meshd-relay`: a relay of its own, for who wants one beside the coordinator's.

mod settings;
mod tcp;

use anyhow::Result;
use clap::Parser;
use meshd_relay::forwarder::DropReason;
use meshd_relay::{Counters, RelayConfig, RelayHandle};
use settings::{Arguments, Settings, Started};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How often a `--json` line says what was done.
const REPORT_EVERY: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let json = arguments.json;
    let settings = match Settings::load(arguments)? {
        Started::Serve(settings) => *settings,
        Started::ShowKey(key) => {
            println!("{key}");
            return Ok(());
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings, json))
}

async fn serve(settings: Settings, json: bool) -> Result<()> {
    let (listen, tcp_port, files) = (settings.listen.clone(), settings.tcp_port, settings.tls);
    let config = RelayConfig {
        listen: settings.listen,
        alt_port: settings.alt_port,
        key: settings.key,
        network: settings.network,
        permit_keys: settings.permit_keys,
        limits: settings.limits,
    };
    // Before the first client can ask to be told: the signals.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let relay = RelayHandle::spawn(config)?;
    let files = files.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let mut tasks = JoinSet::new();
    let tcp = match tcp_port {
        Some((port, asked)) => tcp::start(&listen, port, asked, files, &relay.control(), &mut tasks)?,
        None => Vec::new(),
    };
    let started = serde_json::json!({
        "event": "started",
        "key": relay.public_key().to_string(),
        "listen": relay.addrs(),
        "stun_only": relay.alt_addrs(),
        "tcp": tcp,
    });
    if json {
        println!("{started}");
    } else {
        println!("relay key {}", relay.public_key());
        println!("relay and STUN on UDP {:?}, STUN only on {:?}", relay.addrs(), relay.alt_addrs());
        println!("TLS and WebSocket on TCP {tcp:?}");
    }
    let mut report = tokio::time::interval(REPORT_EVERY);
    report.tick().await;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(ended) = tasks.join_next() => anyhow::bail!("a TCP port stopped being served: {ended:?}"),
            _ = report.tick() => say("counters", relay.counters().await, json),
        }
    }
    say("stopped", relay.shutdown().await, json);
    Ok(())
}

fn say(event: &str, counters: Counters, json: bool) {
    if !json {
        tracing::info!(
            event,
            clients = counters.clients,
            packets = counters.forwarded_packets,
            bytes = counters.forwarded_bytes
        );
        return;
    }
    let drops: serde_json::Map<String, serde_json::Value> =
        DropReason::ALL.iter().map(|r| (r.as_str().to_owned(), counters.dropped(*r).into())).collect();
    let line = serde_json::json!({
        "event": event,
        "clients": counters.clients,
        "attaches": counters.attaches,
        "refused": counters.refused,
        "forwarded_packets": counters.forwarded_packets,
        "forwarded_bytes": counters.forwarded_bytes,
        "stun_answers": counters.stun_answers,
        "drops": drops,
    });
    println!("{line}");
}
