//! What an admin says about serving, on the command line or in `coordinator.toml`.

use crate::model::MeshSettings;
use ipnet::Ipv4Net;
use meshd_proto::Hostname;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of `serve`. Each is also a key of the configuration file; the command line wins.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Name or address where machines outside reach this coordinator, with a port when a router maps it
    /// to another one. May be given several times.
    #[arg(long, value_name = "NAME|IP[:PORT]")]
    pub public: Vec<String>,
    /// Address and port to listen on [default: port 443, else 8443]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Name of a new mesh: its domain is NAME.internal [default: home]
    #[arg(long)]
    pub name: Option<Hostname>,
    /// IPv4 range of a new mesh [default: a random free /16 of 100.64.0.0/10]
    #[arg(long)]
    pub prefix: Option<Ipv4Net>,
    /// UDP port of relay and STUN
    #[arg(long, value_name = "PORT", default_value_t = 3478)]
    pub relay_port: u16,
    /// A second UDP port for STUN, which tells kinds of NAT apart; 0: none
    #[arg(long, value_name = "PORT", default_value_t = 3479)]
    pub stun_port: u16,
    /// Run no relay and no STUN here
    #[arg(long)]
    pub no_relay: bool,
    /// Certificate chain for TLS in PEM [default: a self-made one]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Where database and keys are kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/meshd-coordinator",
        env = "MESHD_COORDINATOR_STATE"
    )]
    pub state_dir: PathBuf,
    /// Unix socket for the command line; taken from the global option
    #[arg(skip)]
    pub socket: PathBuf,
    /// Say what is served as one line of JSON; taken from the global option
    #[arg(skip)]
    pub json: bool,
}

pub(super) fn default_name() -> Hostname {
    Hostname::sanitized("home")
}

impl ServeOptions {
    /// Says when an option for a new mesh comes too late.
    pub(super) fn warn_about_settled(&self, mesh: &MeshSettings) {
        if self.name.as_ref().is_some_and(|name| *name != mesh.name) {
            tracing::warn!(mesh = %mesh.name, "--name is ignored: the mesh already has a name");
        }
        if self.prefix.is_some_and(|prefix| prefix != mesh.prefixes.v4) {
            tracing::warn!(prefix = %mesh.prefixes.v4, "--prefix is ignored: the mesh already has its range");
        }
    }
}
