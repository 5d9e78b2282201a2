//! A whole node inside a program: joins a mesh, dials and listens there. No daemon, no local API, no
//! privilege; what `meshd run --tun=userspace` does, for programs that are part of the mesh themselves.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use meshd_node::userspace::{Node, NodeConfig};
//! let node = Node::start(NodeConfig::new("/var/lib/app/mesh".into()).with_token("mesh_…")).await?;
//! let stream = node.connect("pi", 22).await?;
//! # drop(stream); Ok(()) }
//! ```

use super::dial::{DialError, Dialed, Dialer};
use super::netstack::Limits;
use super::service::UserspaceConfig;
use super::stream::{TcpListener, TcpStream};
use super::target::{Host, Target};
use super::udp::UdpSocket;
use crate::config::DaemonConfig;
use crate::daemon::{self, DaemonError, Seam, Sections};
use crate::local_api::Question;
use crate::logs::LogRing;
use meshd_proto::expose::ExitOffer;
use meshd_proto::localapi::{Ask, Empty, Failure, Response, Settings, Status, Tell, Up};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Questions that wait for the node's task.
const QUESTIONS: usize = 16;

/// How to start a [`Node`].
#[derive(Clone, Debug)]
pub struct NodeConfig {
    state_dir: PathBuf,
    token: Option<Zeroizing<String>>,
    settings: Settings,
    port: u16,
    mtu: u16,
    patience: Duration,
    userspace: UserspaceConfig,
    exit: Option<ExitOffer>,
}

impl NodeConfig {
    /// A node that keeps its keys and the last map in `state_dir`: started from there again, it is the
    /// same node. Two nodes never share one.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            token: None,
            settings: Settings::default(),
            port: 0,
            mtu: 1380,
            patience: Duration::from_secs(30),
            userspace: UserspaceConfig::default(),
            exit: None,
        }
    }

    /// The join token for a node that is in no mesh yet; not used up by one that is.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(Zeroizing::new(token.to_owned())), ..self }
    }

    /// Settings to change, as `meshd up` takes them.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The UDP port of the node; 0: the one of the last run, or any.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// How long [`Node::start`] waits for the mesh.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Offers the node as a public exit from the start.
    #[must_use]
    pub fn with_exit(self, offer: ExitOffer) -> Self {
        Self { exit: Some(offer), ..self }
    }

    /// Limits of the stack.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.userspace.limits = limits;
        self
    }

    /// Proxies and port forwards.
    #[must_use]
    pub fn with_services(self, userspace: UserspaceConfig) -> Self {
        Self { userspace, ..self }
    }
}

/// Why a node did not start, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Files, sockets, keys.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// It was refused, or lacks something. The message says what, the hint what to do.
    #[error("{}{}{}", .0.message, if .0.hint.is_empty() { "" } else { ": " }, .0.hint)]
    Failed(Failure),
    /// It did not get into its mesh in time; it is stopped.
    #[error("this node did not get into its mesh in {0:?}: is the coordinator reachable from here?")]
    TimedOut(Duration),
    /// It has ended.
    #[error("this node has ended")]
    Ended,
}

/// A running node. Dropping it ends it, without a farewell; [`Node::shutdown`] is the orderly way.
#[derive(Debug)]
pub struct Node {
    questions: mpsc::Sender<Question>,
    access: watch::Receiver<Option<Dialer>>,
    task: JoinSet<Result<(), DaemonError>>,
    stop: CancellationToken,
    sections: watch::Receiver<Sections>,
    exit: watch::Sender<Option<ExitOffer>>,
}

impl Node {
    /// Starts a node and waits until names and peers of its mesh work.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let daemon_config =
            DaemonConfig::userspace(config.state_dir, config.port, config.mtu, config.userspace);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (access_tx, access) = watch::channel(None);
        let (sections_tx, sections) = watch::channel(Sections::default());
        let (exit, exit_rx) = watch::channel(config.exit);
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(Box::pin(daemon::run_inside(
            daemon_config,
            LogRing::default(),
            asked,
            (access_tx, Seam::new(sections_tx, exit_rx)),
            stop.clone(),
        )));
        let mut node = Self { questions, access, task, stop, sections, exit };
        let up = Ask::Up(Up {
            token: config.token.as_ref().map(|token| token.to_string()),
            settings: Some(config.settings),
        });
        let ready = async {
            node.ask(up).await?;
            node.access.wait_for(Option::is_some).await.map(drop).map_err(|_| NodeError::Ended)
        };
        match tokio::time::timeout(config.patience, ready).await {
            Ok(Ok(())) => Ok(node),
            // What ended it says more than that it ended.
            Ok(Err(NodeError::Ended)) => Err(match node.task.join_next().await {
                Some(Ok(Err(error))) => error.into(),
                _ => NodeError::Ended,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NodeError::TimedOut(config.patience)),
        }
    }

    /// Asks as a local client would; the last answer.
    async fn ask(&self, ask: Ask) -> Result<Tell, NodeError> {
        let (answers, mut told) = mpsc::channel::<Response>(16);
        self.questions.send(Question { ask, answers }).await.map_err(|_| NodeError::Ended)?;
        while let Some(response) = told.recv().await {
            match response.tell {
                Some(Tell::Failed(failure)) => return Err(NodeError::Failed(failure)),
                Some(tell) if response.last => return Ok(tell),
                _ => {}
            }
        }
        Err(NodeError::Ended)
    }

    /// The way into the mesh, while the node is up.
    ///
    /// # Errors
    /// When it is not.
    pub fn dialer(&self) -> Result<Dialer, DialError> {
        self.access.borrow().clone().ok_or(DialError::Down)
    }

    /// The same, for somebody who outlives a restart of the node within this program.
    pub fn access(&self) -> watch::Receiver<Option<Dialer>> {
        self.access.clone()
    }

    /// The sections of the map for gateways on this node, and their changes.
    pub fn sections(&self) -> watch::Receiver<Sections> {
        self.sections.clone()
    }

    /// Offers the node as a public exit, with this from now on.
    pub fn offer_exit(&self, offer: ExitOffer) {
        self.exit.send_replace(Some(offer));
    }

    /// Connects to a host of the mesh, or to one behind its nodes, by name or address. Never leaves the
    /// mesh.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let host = host.parse().map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
        match self.dialer()?.dial(&Target { host, port }, false).await? {
            Dialed::Mesh(stream) => Ok(stream),
            Dialed::Host(_) => Err(DialError::Down),
        }
    }

    /// Accepts connections to `port` of the node's mesh addresses; 0: a free one.
    ///
    /// # Errors
    /// When the node is not up, or the port is taken.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let dialer = self.dialer().map_err(|e| io::Error::new(e.kind(), e))?;
        dialer.stack().listen(port)
    }

    /// A UDP socket on `port` of the node's mesh addresses; 0: a free one.
    ///
    /// # Errors
    /// When the node is not up, or the port is taken.
    pub fn udp_bind(&self, port: u16) -> io::Result<UdpSocket> {
        let dialer = self.dialer().map_err(|e| io::Error::new(e.kind(), e))?;
        dialer.stack().udp_bind(port)
    }

    /// The addresses of a name: of the mesh, of a split domain, or of the internet.
    ///
    /// # Errors
    /// When there is none.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DialError> {
        self.dialer()?.resolve(name).await
    }

    /// How the node is, as `meshd status --json` prints it.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn status(&self) -> Result<Status, NodeError> {
        match self.ask(Ask::Status(Empty {})).await? {
            Tell::Status(status) => Ok(*status),
            _ => Err(NodeError::Ended),
        }
    }

    /// Changes settings.
    ///
    /// # Errors
    /// When they are refused.
    pub async fn set(&self, settings: Settings) -> Result<(), NodeError> {
        self.ask(Ask::Set(settings)).await.map(drop)
    }

    /// Leaves the mesh for good: the coordinator forgets the node, its keys are deleted.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn leave(self) -> Result<(), NodeError> {
        self.ask(Ask::Logout(Empty {})).await?;
        self.shutdown().await
    }

    /// Ends the node; it may be started again from its state.
    ///
    /// # Errors
    /// When it ended with an error before.
    pub async fn shutdown(mut self) -> Result<(), NodeError> {
        self.stop.cancel();
        match self.task.join_next().await {
            Some(Ok(result)) => result.map_err(Into::into),
            _ => Err(NodeError::Ended),
        }
    }
}
