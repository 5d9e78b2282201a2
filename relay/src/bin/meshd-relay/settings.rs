//! Command line and configuration file of `meshd-relay`, turned into typed settings once.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use meshd_proto::{NetworkId, NodeKey, NodeSecret, VerifyingKey};
use meshd_relay::RelayLimits;
use meshd_relay::forwarder::Rate;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const UDP_PORT: u16 = 3478;
const ALT_PORT: u16 = 3479;
const TCP_PORT: u16 = 443;
const KEY_FILE: &str = "/var/lib/meshd-relay/relay.key";

/// Forwards ciphertext between the nodes of one mesh, and tells nodes their outside address (STUN).
///
/// A flag given here wins over the same setting in the file.
#[derive(Debug, Default, Parser)]
#[command(name = "meshd-relay", version)]
pub(crate) struct Arguments {
    /// Settings as TOML: listen, alt_port, tcp_port, tls_cert, tls_key, key_file, network, permit_keys,
    /// max_clients, client_rate.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// UDP address for relaying and STUN; repeat it for several [default: 0.0.0.0:3478 and [::]:3478]
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// Second port that answers STUN only, so that nodes can classify their NAT; 0: none [default: 3479]
    #[arg(long, value_name = "PORT")]
    alt_port: Option<u16>,
    /// TCP port on the same addresses, for nodes whose network passes no UDP; 0: none [default: 443 where it
    /// is free]
    #[arg(long, value_name = "PORT")]
    tcp_port: Option<u16>,
    /// Certificate chain for TLS in PEM [default: a self-made one; nodes know the relay by its key]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of that certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Print the relay's public key (`meshd-coordinator relays add` wants it) and do nothing else
    #[arg(long)]
    show_key: bool,
    /// The relay's private key, made (mode 0600) when it is not there [default: /var/lib/meshd-relay/relay.key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The network's id, 32 hexadecimal digits; `meshd-coordinator status --json` shows it
    #[arg(long, value_name = "HEX", value_parser = parse_network)]
    network: Option<NetworkId>,
    /// The coordinator's verifying key; twice during a key rotation
    #[arg(long = "permit-key", value_name = "KEY")]
    permit_keys: Vec<VerifyingKey>,
    /// Most nodes attached at once [default: 10000]
    #[arg(long, value_name = "N")]
    max_clients: Option<usize>,
    /// Bytes per second that one node may send through [default: 31250000]
    #[arg(long, value_name = "BYTES")]
    client_rate: Option<u64>,
    /// Print what happens as one JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    alt_port: Option<u16>,
    tcp_port: Option<u16>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    key_file: Option<PathBuf>,
    network: Option<String>,
    #[serde(default)]
    permit_keys: Vec<VerifyingKey>,
    max_clients: Option<usize>,
    client_rate: Option<u64>,
}

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Started {
    /// To relay.
    Serve(Box<Settings>),
    /// To print the key.
    ShowKey(NodeKey),
}

/// What the relay runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) alt_port: Option<u16>,
    /// The TCP port, and whether somebody asked for it; `None`: none.
    pub(crate) tcp_port: Option<(u16, bool)>,
    /// Files of a certificate and its key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) key: NodeSecret,
    pub(crate) network: NetworkId,
    pub(crate) permit_keys: Vec<VerifyingKey>,
    pub(crate) limits: RelayLimits,
}

impl Settings {
    pub(crate) fn load(flags: Arguments) -> Result<Started> {
        let file = match &flags.config {
            Some(path) => {
                let text =
                    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not right", path.display()))?
            }
            None => SettingsFile::default(),
        };
        if flags.show_key {
            let path = flags.key_file.or(file.key_file).unwrap_or_else(|| KEY_FILE.into());
            return Ok(Started::ShowKey(load_or_make_key(&path)?.public()));
        }
        let or_file =
            |flags: Vec<SocketAddr>, file: Vec<SocketAddr>| if flags.is_empty() { file } else { flags };
        let mut listen = or_file(flags.listen, file.listen);
        if listen.is_empty() {
            listen = vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, UDP_PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, UDP_PORT)),
            ];
        }
        let from_file = file.network.as_deref().map(parse_network).transpose().map_err(anyhow::Error::msg)?;
        let Some(network) = flags.network.or(from_file) else {
            bail!("which network? Give --network with the id that `meshd-coordinator status --json` shows");
        };
        let permit_keys = if flags.permit_keys.is_empty() { file.permit_keys } else { flags.permit_keys };
        ensure!(
            !permit_keys.is_empty(),
            "whose permits? Give --permit-key with the coordinator's verifying key"
        );
        let defaults = RelayLimits::default();
        let per_second = flags.client_rate.or(file.client_rate).unwrap_or(defaults.client_bytes.per_second);
        ensure!(per_second > 0, "a client rate of 0 forwards nothing; leave it out for the default");
        let burst = (per_second / 8).max(128 << 10);
        let limits = RelayLimits {
            max_clients: flags.max_clients.or(file.max_clients).unwrap_or(defaults.max_clients),
            client_bytes: Rate { per_second, burst },
            ..defaults
        };
        let key_file = flags.key_file.or(file.key_file).unwrap_or_else(|| KEY_FILE.into());
        let alt_port = Some(flags.alt_port.or(file.alt_port).unwrap_or(ALT_PORT)).filter(|port| *port != 0);
        let asked = flags.tcp_port.or(file.tcp_port);
        let tcp_port = Some((asked.unwrap_or(TCP_PORT), asked.is_some())).filter(|(port, _)| *port != 0);
        let tls = match (flags.tls_cert.or(file.tls_cert), flags.tls_key.or(file.tls_key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("tls_cert and tls_key go together"),
        };
        let key = load_or_make_key(&key_file)?;
        let settings = Self { listen, alt_port, tcp_port, tls, key, network, permit_keys, limits };
        Ok(Started::Serve(Box::new(settings)))
    }
}

fn parse_network(text: &str) -> Result<NetworkId, String> {
    let wrong = || format!("`{text}` is not a network id: 32 hexadecimal digits");
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u128::from_str_radix(text, 16).map(|n| NetworkId::from_bytes(n.to_be_bytes())).map_err(|_| wrong())
}

fn load_or_make_key(path: &Path) -> Result<NodeSecret> {
    match File::open(path) {
        Ok(file) => read_key(file, path),
        Err(e) if e.kind() == ErrorKind::NotFound => make_key(path),
        Err(e) => Err(e).with_context(|| format!("cannot read the relay's key {}", path.display())),
    }
}

fn read_key(file: File, path: &Path) -> Result<NodeSecret> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "{} is readable by others (mode {mode:o}): `chmod 600` it, and make a new key if it may have leaked",
        path.display()
    );
    let mut text = String::new();
    file.take(256).read_to_string(&mut text)?;
    NodeSecret::from_base64(&text)
        .with_context(|| format!("{} does not hold a key; move it away to get a new one", path.display()))
}

/// Written whole under another name first, so that a crash leaves no half key.
fn make_key(path: &Path) -> Result<NodeSecret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    let key = NodeSecret::from_bytes(bytes);
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{}", key.to_base64())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().with_context(|| format!("cannot write the relay's key to {}", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(folder: &Path, config: &str) -> Arguments {
        let path = folder.join("relay.toml");
        fs::write(&path, config).unwrap();
        Arguments {
            config: Some(path),
            key_file: Some(folder.join("deep/relay.key")),
            ..Arguments::default()
        }
    }

    fn load(arguments: Arguments) -> Result<Settings> {
        match Settings::load(arguments)? {
            Started::Serve(settings) => Ok(*settings),
            Started::ShowKey(key) => bail!("shows {key}"),
        }
    }

    const KEY: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqo=";
    const NETWORK: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn the_key_is_made_once_for_nobody_else_to_read_and_then_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("network = \"{NETWORK}\"\npermit_keys = [\"{KEY}\"]\n");
        let first = load(arguments(folder.path(), &config)).unwrap();
        let path = folder.path().join("deep/relay.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = load(arguments(folder.path(), &config)).unwrap();
        assert_eq!(first.key, second.key);
        assert_eq!(first.network.to_string(), NETWORK);
        let mut show = arguments(folder.path(), "");
        show.show_key = true;
        let shown = load(show).unwrap_err().to_string();
        assert_eq!(
            shown,
            format!("shows {}", first.key.public()),
            "before network and permit keys are known"
        );
        assert_eq!((first.listen.len(), first.alt_port), (2, Some(3479)));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load(arguments(folder.path(), &config)).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            format!("network = \"{NETWORK}\"\npermit_keys = [\"{KEY}\"]\nalt_port = 9\nmax_clients = 5\n");
        let mut flags = arguments(folder.path(), &config);
        flags.alt_port = Some(0);
        let settings = load(flags).unwrap();
        assert_eq!((settings.alt_port, settings.limits.max_clients), (None, 5));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (config, says) in [
            ("", "--network"),
            (&format!("network = \"{NETWORK}\""), "--permit-key"),
            ("network = \"12\"", "32 hexadecimal digits"),
            ("colour = 1", "relay.toml"),
        ] {
            let error = load(arguments(folder.path(), config)).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{config}: {error:#}");
        }
    }
}
