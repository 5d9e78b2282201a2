//! `meshd expose`: a program of this machine in the mesh, or on the internet by an exit.
//!
//! This process is the gateway: it listens on this node's mesh addresses, ends TLS here or not at all, and
//! logs requests. The daemon publishes its claims as long as this process is connected, so whatever ends it
//! ends the publication. Nothing is listened on beside the mesh addresses.

mod config;
mod say;
mod wish;

use super::Globals;
use crate::cli;
use crate::client;
use crate::output::CliError;
use config::Ports;
use meshd_gateway::acme::{Orders, Store};
use meshd_gateway::dial::Dialers;
use meshd_gateway::log::{AccessLog, Format, writer};
use meshd_gateway::runtime::Gateway;
use meshd_gateway::table::Reach;
use meshd_proto::expose::ClaimMsg;
use meshd_proto::localapi::{self, Ask, Empty, Exposed, Tell};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use wish::Wish;

/// How long to wait for the coordinator's first answer before saying that it is waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How often certificates on the disk are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long connections under way may go on at the end.
const DRAIN: Duration = Duration::from_millis(300);

pub(crate) fn run(globals: &Globals, args: cli::Expose) -> anyhow::Result<ExitCode> {
    let wish = Wish::of(&args)?;
    let me = whoami(globals)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(globals, &args, wish, me));
    // A thread still reads from the daemon: its socket ends with this process.
    runtime.shutdown_background();
    result
}

/// This node, as far as it is needed here.
pub(super) struct Me {
    pub(super) fqdn: String,
    pub(super) addrs: Vec<IpAddr>,
}

fn whoami(globals: &Globals) -> Result<Me, CliError> {
    let mut answers = client::ask(&globals.socket, Ask::Status(Empty {}))?;
    let Some(Tell::Status(status)) = answers.next()? else {
        return Err(CliError::new("the daemon did not say how it is", "see `meshd status`"));
    };
    if status.userspace.is_some() {
        return Err(CliError::new(
            "this daemon runs in userspace mode, where its mesh addresses are not this machine's",
            "start it with --forward PORT=ADDRESS:PORT instead, or run it as root",
        ));
    }
    let me = status.me.filter(|me| !me.addresses.is_empty());
    let me = me.ok_or_else(|| CliError::new("this node is not in its mesh yet", "see `meshd status`"))?;
    let addrs = me.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    Ok(Me { fqdn: me.fqdn.trim_end_matches('.').to_owned(), addrs })
}

/// What the daemon said.
enum News {
    Exposed(Exposed),
    /// It refused: nothing will become of this.
    Failed(CliError),
    /// The connection was lost; it is tried again.
    Lost,
}

async fn serve(globals: &Globals, args: &cli::Expose, wish: Wish, me: Me) -> anyhow::Result<ExitCode> {
    let ports = Ports::choose(&wish, &me, args)?;
    let mut tasks = JoinSet::new();
    let (log, lines) = AccessLog::open(if globals.json { Format::Json } else { Format::Text });
    tasks.spawn(writer(lines, Box::new(std::io::stdout())));
    let mut gateway = Gateway::new(Dialers::host(), log, Reach::HostAndMesh);
    let store = Store::new(&args.state);
    let mut exits: Vec<IpAddr> = Vec::new();
    let mut config = config::build(&wish, &ports, &me, args, &exits)?;
    gateway.apply(&config, &store)?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (news_tx, mut news) = mpsc::channel(8);
    let keep = news_tx.clone();
    if wish.is_public() {
        let claims: Vec<ClaimMsg> = wish.claims(&ports, args).iter().map(ClaimMsg::from).collect();
        let socket = globals.socket.clone();
        tasks.spawn_blocking(move || listen(&socket, &claims, &news_tx));
    } else {
        say::in_mesh(globals, &wish, &ports, &me, args)?;
    }
    let orders = wish.orders(args).then(|| Orders::start(&config, &store, gateway.shared(), &mut tasks));
    let mut seen = stamps(&store, &config);
    let mut said = say::Said::default();
    let mut look = tokio::time::interval(LOOK);
    let end = async {
        match wish.lifetime {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut end = std::pin::pin!(end);
    let mut patience = std::pin::pin!(tokio::time::sleep(FIRST_ANSWER));
    let mut waited = !wish.is_public();
    let code = loop {
        tokio::select! {
            _ = term.recv() => break ExitCode::SUCCESS,
            _ = int.recv() => break ExitCode::SUCCESS,
            () = &mut end => {
                eprintln!("The time is over.");
                break ExitCode::SUCCESS;
            }
            () = &mut patience, if !waited => {
                waited = true;
                eprintln!("Waiting for the coordinator …");
            }
            _ = look.tick() => {
                let now = stamps(&store, &config);
                if now != seen {
                    seen = now;
                    gateway.apply(&config, &store)?;
                    eprintln!("The certificate is in use.");
                }
            }
            told = news.recv() => match told {
                Some(News::Exposed(exposed)) => {
                    waited |= !exposed.claims.is_empty();
                    let from = config::exits(&exposed);
                    if from != exits {
                        exits = from;
                        config = config::build(&wish, &ports, &me, args, &exits)?;
                        gateway.apply(&config, &store)?;
                        if let Some(orders) = &orders {
                            orders.follow(&config);
                        }
                    }
                    said.tell(globals, &wish, &exposed, args)?;
                }
                Some(News::Failed(error)) => return Err(error.into()),
                Some(News::Lost) => eprintln!("The daemon is away; trying again …"),
                None => break ExitCode::FAILURE,
            }
        }
    };
    drop(keep);
    gateway.drain(DRAIN).await;
    Ok(code)
}

/// Asks the daemon to publish, for as long as this process lives; again when the daemon comes back.
fn listen(socket: &std::path::Path, claims: &[ClaimMsg], news: &mpsc::Sender<News>) {
    let mut before = false;
    loop {
        let ask = Ask::Expose(localapi::Expose { claims: claims.to_vec() });
        let result = client::ask(socket, ask).and_then(|mut answers| {
            while let Some(tell) = answers.next()? {
                if let Tell::Exposed(exposed) = tell {
                    before = true;
                    if news.blocking_send(News::Exposed(exposed)).is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        let said = match result {
            Err(error) if !before => News::Failed(error),
            _ => News::Lost,
        };
        if news.blocking_send(said).is_err() || !before {
            return;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What changes when an ordered certificate does.
fn stamps(store: &Store, config: &meshd_gateway::GatewayConfig) -> Vec<(PathBuf, Option<SystemTime>)> {
    let stamp = |file: PathBuf| {
        let changed = std::fs::metadata(&file).and_then(|m| m.modified()).ok();
        (file, changed)
    };
    store.files(config).into_iter().map(stamp).collect()
}
