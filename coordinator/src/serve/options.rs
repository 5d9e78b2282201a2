//! What an admin says about serving: on the command line, else in `coordinator.toml`.

use super::acme::{AcmeOptions, Challenge};
use crate::model::MeshSettings;
use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use meshd_proto::{DnsName, Hostname};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "/etc/meshd/coordinator.toml";
const RELAY_PORT: u16 = 3478;
const STUN_PORT: u16 = 3479;

/// Options of `serve`. Each is also a key of the configuration file; the command line wins.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeOptions {
    /// Name or address where machines outside reach this coordinator, with a port when a router maps it
    /// to another one. May be given several times; it is kept until another one is given
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
    /// UDP port of relay and STUN [default: 3478]
    #[arg(long, value_name = "PORT")]
    pub relay_port: Option<u16>,
    /// A second UDP port for STUN, which tells kinds of NAT apart; 0: none [default: 3479]
    #[arg(long, value_name = "PORT")]
    pub stun_port: Option<u16>,
    /// STUN server to ask for the outside address when this host has only private ones and no --public
    /// was given; repeat it for several, `none` asks nobody [default: two public ones]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub stun_server: Vec<String>,
    /// Run no relay and no STUN here
    #[arg(long)]
    pub no_relay: bool,
    /// Certificate chain for TLS in PEM [default: a self-made one]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates from an authority
    #[command(flatten)]
    pub acme: AcmeOptions,
    /// Address range of reverse proxies in front of this coordinator: whom they name in X-Forwarded-For is
    /// who signs in or asks to join. May be given several times
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<IpNet>,
    /// Where database and keys are kept
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/meshd-coordinator",
        env = "MESHD_COORDINATOR_STATE"
    )]
    pub state_dir: PathBuf,
    /// Configuration file [default: /etc/meshd/coordinator.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Unix socket for the command line; taken from the global option
    #[arg(skip)]
    pub socket: PathBuf,
    /// Say what is served as one line of JSON; taken from the global option
    #[arg(skip)]
    pub json: bool,
}

/// The configuration file. Unknown keys are refused: a typing mistake would be a wish unheard.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    public: Vec<String>,
    listen: Option<SocketAddr>,
    name: Option<Hostname>,
    prefix: Option<Ipv4Net>,
    relay_port: Option<u16>,
    stun_port: Option<u16>,
    stun_server: Vec<String>,
    no_relay: bool,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    acme: Vec<DnsName>,
    acme_directory: Option<String>,
    acme_contact: Vec<String>,
    acme_ca: Option<PathBuf>,
    acme_challenge: Option<Challenge>,
    acme_http: Option<SocketAddr>,
    trusted_proxy: Vec<IpNet>,
}

pub(super) fn default_name() -> Hostname {
    Hostname::sanitized("home")
}

impl ServeOptions {
    /// Fills from the configuration file what the command line left open.
    pub(super) fn with_file(self) -> Result<Self> {
        let (path, asked_for) = match &self.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(CONFIG_FILE), false),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => self.with_text(&text, &path),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked_for => Ok(self),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn with_text(self, text: &str, path: &Path) -> Result<Self> {
        let file: File = toml::from_str(text).with_context(|| format!("in {}", path.display()))?;
        anyhow::ensure!(
            file.tls_cert.is_some() == file.tls_key.is_some(),
            "in {}: tls-cert and tls-key go together",
            path.display()
        );
        let in_file = AcmeOptions {
            acme: file.acme,
            acme_directory: file.acme_directory,
            acme_contact: file.acme_contact,
            acme_ca: file.acme_ca,
            acme_challenge: file.acme_challenge,
            acme_http: file.acme_http,
        };
        anyhow::ensure!(
            in_file.acme.is_empty() || file.tls_cert.is_none(),
            "in {}: either acme or tls-cert",
            path.display()
        );
        // Who chose one way on the command line means that one.
        let (own_certificate, ordered) = (self.tls_cert.is_some(), !self.acme.acme.is_empty());
        let acme = if own_certificate { self.acme } else { self.acme.or(in_file) };
        Ok(Self {
            public: if self.public.is_empty() { file.public } else { self.public },
            listen: self.listen.or(file.listen),
            name: self.name.or(file.name),
            prefix: self.prefix.or(file.prefix),
            relay_port: self.relay_port.or(file.relay_port),
            stun_port: self.stun_port.or(file.stun_port),
            stun_server: if self.stun_server.is_empty() { file.stun_server } else { self.stun_server },
            no_relay: self.no_relay || file.no_relay,
            tls_cert: if own_certificate || ordered { self.tls_cert } else { file.tls_cert },
            tls_key: if own_certificate || ordered { self.tls_key } else { file.tls_key },
            acme,
            trusted_proxy: if self.trusted_proxy.is_empty() {
                file.trusted_proxy
            } else {
                self.trusted_proxy
            },
            ..self
        })
    }

    /// UDP port of relay and STUN.
    pub(super) fn relay_port(&self) -> u16 {
        self.relay_port.unwrap_or(RELAY_PORT)
    }

    /// The second UDP port for STUN.
    pub(super) fn stun_port(&self) -> Option<u16> {
        Some(self.stun_port.unwrap_or(STUN_PORT)).filter(|port| *port != 0)
    }

    /// Says when an option for a new mesh comes too late.
    pub(super) fn warn_about_settled(&self, mesh: &MeshSettings) {
        if self.name.as_ref().is_some_and(|name| *name != mesh.name) {
            tracing::warn!(mesh = %mesh.name, "the name asked for is ignored: the mesh already has one");
        }
        if self.prefix.is_some_and(|prefix| prefix != mesh.prefixes.v4) {
            tracing::warn!(prefix = %mesh.prefixes.v4, "the prefix asked for is ignored: the mesh already has its range");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file_and_unknown_keys_are_refused() {
        let path = Path::new("c.toml");
        let options = ServeOptions { relay_port: Some(1), ..ServeOptions::default() };
        let text = "public = [\"vpn.example.com\"]\nrelay-port = 2\nstun-port = 0\ntrusted-proxy = [\"10.0.0.0/8\"]\n";
        let merged = options.clone().with_text(text, path).unwrap();
        assert_eq!(merged.public, ["vpn.example.com"]);
        assert_eq!(merged.trusted_proxy, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!((merged.relay_port(), merged.stun_port()), (1, None));
        let error = format!("{:#}", options.clone().with_text("pubilc = []", path).unwrap_err());
        assert!(error.contains("c.toml") && error.contains("pubilc"), "{error}");
        assert!(options.clone().with_text("tls-cert = \"x\"", path).is_err());
        let named = options
            .clone()
            .with_text("acme = [\"vpn.example.com\"]\nacme-challenge = \"http-01\"\n", path)
            .unwrap();
        assert_eq!((named.acme.acme.len(), named.acme.acme_challenge), (1, Some(Challenge::Http01)));
        let both = "acme = [\"vpn.example.com\"]\ntls-cert = \"x\"\ntls-key = \"y\"\n";
        assert!(options.with_text(both, path).is_err());
    }
}
