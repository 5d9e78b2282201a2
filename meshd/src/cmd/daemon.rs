//! `meshd run`: the daemon in the foreground.

use super::{Globals, paths};
use crate::cli::{Run, Tun, UserspaceArgs};
use crate::output::CliError;
use anyhow::Context;
use meshd_node::logs::{LogRing, LogWriter};
use meshd_node::proxy::{Credentials, Kind, ProxyConfig};
use meshd_node::userspace::{Limits, UserspaceConfig};
use meshd_node::{DaemonConfig, daemon};
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

pub(crate) fn run(globals: &Globals, args: &Run) -> anyhow::Result<ExitCode> {
    let state_dir = args.state_dir.clone().unwrap_or_else(|| paths::state_dir(args.tun));
    let mut config = DaemonConfig::load(&args.config)
        .map_err(|e| CliError::usage(e.to_string(), "see `man meshd-run` for the keys of the file"))?
        .with_paths(state_dir, globals.socket.clone());
    match args.tun {
        Tun::Userspace => config = config.with_userspace(userspace(&args.userspace)?),
        Tun::Kernel if args.userspace.is_empty() => {}
        Tun::Kernel => {
            let what = "proxies and port forwards belong to userspace mode";
            return Err(CliError::usage(what, "add --tun=userspace").into());
        }
    }
    if let Some(threads) = args.data_threads {
        config.data.threads = threads.into();
    }
    let ring = LogRing::default();
    let writer = LogWriter(ring.clone());
    let filter = EnvFilter::try_from_env("MESHD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,zbus=warn,hickory_server=warn,boringtun=off"));
    // The journal adds the time itself.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(move || writer.clone());
    if under_systemd {
        subscriber.without_time().init();
    } else {
        subscriber.init();
    }
    // Control only: packets have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(daemon::run(config, ring))?;
    Ok(ExitCode::SUCCESS)
}

fn userspace(args: &UserspaceArgs) -> anyhow::Result<UserspaceConfig> {
    let credentials = args.proxy_credentials.as_deref().map(credentials).transpose()?;
    let proxy = |kind, listen: Option<std::net::SocketAddr>| {
        let make = |listen| ProxyConfig::new(kind, listen, args.proxy_listen_any, credentials.clone());
        listen.map(make).transpose().map_err(|e| CliError::usage(e.to_string(), "listen on 127.0.0.1"))
    };
    let proxies = [proxy(Kind::Socks5, args.socks5)?, proxy(Kind::Http, args.http_proxy)?];
    Ok(UserspaceConfig {
        proxies: proxies.into_iter().flatten().collect(),
        forwards: args.forward.clone(),
        limits: Limits::default(),
    })
}

fn credentials(path: &Path) -> anyhow::Result<Credentials> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = Zeroizing::new(text);
    let bad = |e: meshd_node::proxy::BadProxy| {
        CliError::usage(format!("{}: {e}", path.display()), "write one line: user:password")
    };
    Ok(Credentials::parse(&text).map_err(bad)?)
}
