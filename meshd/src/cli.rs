//! The command line as types. Parsed once here; a command gets its own struct.

use clap::{Args, Parser, Subcommand};
use meshd_node::userspace::PortForward;
use meshd_proto::localapi::{PrefixList, Settings};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A WireGuard mesh VPN: direct, encrypted links between your machines, and the networks behind them.
#[derive(Debug, Parser)]
#[command(name = "meshd", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    /// Print the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where the daemon listens
    ///
    /// By default /run/meshd/api.sock, or the one of a daemon that you run yourself in userspace mode.
    #[arg(long, global = true, value_name = "PATH", hide = true)]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Join a mesh, or bring this node back up
    Up(Up),
    /// Take this node down and leave the host as it was
    Down(Down),
    /// Show this node, its peers and what needs attention
    Status(Status),
    /// Reach a node through the mesh; says path and round-trip time
    Ping(Ping),
    /// Find out what kind of network this is: NAT, relays, what is blocked
    Netcheck,
    /// Show which ways data to a node went lately, and why it changed
    Path(Path),
    /// Let other routers of the same networks take new flows (before maintenance)
    Drain(Drain),
    /// List routes: offered by this node, and used from others
    Routes,
    /// See how names are answered on this host, and why
    #[command(subcommand)]
    Dns(Dns),
    /// Change settings of this node; what is not named stays
    Set(Set),
    /// Show the daemon's last log lines
    Logs(Logs),
    /// Let the mesh, or with --public the internet, reach a program that listens here
    ///
    /// It ends with Ctrl-C, and leaves nothing. Examples: `meshd expose 3000`, `meshd expose 3000 --public`,
    /// `meshd expose 3000 --public app.example.com`, `meshd expose 5432 --tcp --public :5432 --for 2h`.
    Expose(Box<Expose>),
    /// Make configurations for other software
    #[command(subcommand)]
    Export(Export),
    /// Print version and build
    Version {
        /// Compute known answers of the cryptography that this build uses, and fail when one is wrong
        #[arg(long)]
        self_test: bool,
    },
    /// Run the daemon in the foreground (for systemd and containers)
    Run(Run),
    /// Undo what a killed daemon left on the host
    Cleanup(Cleanup),
    /// Print shell completions
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Restore the host's DNS when the daemon is gone (started by the daemon)
    #[command(hide = true)]
    SuperviseDns {
        /// The state directory
        state_dir: PathBuf,
        /// Which run of the daemon
        lease: String,
    },
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man {
        /// The directory
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Expose {
    /// The program's port, with a host before it when it is another machine: 3000, nas.lan:443
    #[arg(value_name = "[HOST:]PORT")]
    pub(crate) target: String,
    /// Publish on the mesh's exits: under a name, on a port (`:5432`), or where the policy has room
    #[arg(long, value_name = "NAME|:PORT", num_args = 0..=1, default_missing_value = "")]
    pub(crate) public: Vec<String>,
    /// It speaks HTTP (what is assumed)
    #[arg(long, group = "speaks")]
    pub(crate) http: bool,
    /// It speaks anything over TCP
    #[arg(long, group = "speaks")]
    pub(crate) tcp: bool,
    /// It speaks over UDP
    #[arg(long, group = "speaks")]
    pub(crate) udp: bool,
    /// It speaks TLS itself: pass that through, by name
    #[arg(long, group = "speaks", requires = "public")]
    pub(crate) passthrough: bool,
    /// With --passthrough: where it answers challenges of a certificate authority over HTTP
    #[arg(long, value_name = "[HOST:]PORT", requires = "passthrough")]
    pub(crate) challenges: Option<String>,
    /// Begin each connection to the program with a PROXY v2 header that names the client
    #[arg(long)]
    pub(crate) proxy_header: bool,
    /// Only on this exit
    #[arg(long, value_name = "NODE", requires = "public")]
    pub(crate) exit: Option<meshd_proto::Hostname>,
    /// End after this time: 90s, 30m, 2h, 1d
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) lifetime: Option<String>,
    /// The port in the mesh; the program's when that is free
    #[arg(long, value_name = "PORT")]
    pub(crate) mesh_port: Option<u16>,
    /// PEM certificate chain for the public name, instead of ordering one
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The directory of the certificate authority (ACME)
    #[arg(long, value_name = "URL", default_value = "https://acme-v02.api.letsencrypt.org/directory")]
    pub(crate) acme: String,
    /// PEM certificate of that authority's web server, when the system does not know it
    #[arg(long, value_name = "FILE")]
    pub(crate) acme_ca: Option<PathBuf>,
    /// Where ordered certificates and their keys are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/meshd/expose")]
    pub(crate) state: PathBuf,
    /// Print no QR code
    #[arg(long)]
    pub(crate) no_qr: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A join token (mesh_…), or - to read it from standard input
    #[arg(value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Read the join token from a file
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// Ask this coordinator to be let in, without a token: prints a code, and waits until an admin approves it
    #[arg(long, value_name = "URL", conflicts_with_all = ["token", "token_file"])]
    pub(crate) coordinator: Option<String>,
    /// The coordinator's certificate by its SHA-256, where the system knows no authority that vouches for it
    #[arg(long, value_name = "FINGERPRINT", requires = "coordinator")]
    pub(crate) coordinator_key: Option<String>,
    /// Where no daemon runs, only start one: do not install and enable the systemd unit
    #[arg(long)]
    pub(crate) no_service: bool,
    /// Give up waiting after this many seconds; the daemon goes on trying
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Leave the mesh for good and forget the keys
    #[arg(long)]
    pub(crate) logout: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    /// Name or mesh address of a node
    pub(crate) target: String,
    /// How many times
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) count: u32,
    /// How long to wait for each answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) timeout: u32,
    /// Go on until an answer came over a direct path (at most COUNT answers, 20 if not given)
    #[arg(long)]
    pub(crate) until_direct: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Path {
    /// Name or mesh address of a node
    pub(crate) target: String,
    /// How far back, like 90s, 30m or 2h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    pub(crate) since: std::time::Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Take new flows again
    #[arg(long)]
    pub(crate) off: bool,
}

/// A duration in whole seconds, minutes or hours.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("`{text}` is not a time like 90s, 30m or 2h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).map(std::time::Duration::from_secs).ok_or_else(wrong)
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// How many lines
    #[arg(short = 'n', long, default_value_t = 50)]
    pub(crate) lines: u32,
    /// Go on with new lines
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show what was counted since start instead: by peer, by rule of the policy, and what was dropped
    #[arg(long)]
    pub(crate) counters: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dns {
    /// Show the resolver, where questions go, and what became of them
    Status,
    /// Ask about a name as this host would
    Query(NameArgs),
    /// Say step by step why a name is answered as it is
    Explain(NameArgs),
    /// Answer names for machines of a network that run nothing of ours
    Serve(DnsServe),
}

#[derive(Debug, Args)]
pub(crate) struct DnsServe {
    /// Interfaces whose networks are answered
    #[arg(long, value_name = "IFACE,…", value_delimiter = ',', required_unless_present = "off")]
    pub(crate) lan: Vec<String>,
    /// Who may ask [default: every machine on those networks]
    #[arg(long, value_name = "PREFIX,…", value_delimiter = ',')]
    pub(crate) allow: Vec<String>,
    /// Most questions a second from one address; what is beyond gets no reply
    #[arg(long, value_name = "N", default_value_t = meshd_node::settings::DEFAULT_LAN_RATE)]
    pub(crate) rate: u32,
    /// What they see: names of the internet only (guest), or what this node itself may see (node)
    #[arg(long, value_name = "VIEW", value_parser = ["guest", "node"], default_value = "guest")]
    pub(crate) view: String,
    /// Answer nobody but this host any more
    #[arg(long, conflicts_with_all = ["lan", "allow", "view", "rate"])]
    pub(crate) off: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The name
    pub(crate) name: String,
    /// Record type
    #[arg(value_name = "TYPE", default_value = "A")]
    pub(crate) kind: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Export {
    /// A configuration for the plain WireGuard app of a phone, Mac or Windows machine
    ///
    /// The device joins through this node. Its key pair is made here, shown once and stored nowhere;
    /// the coordinator keeps the public key only.
    WgQuick {
        /// Name of the device in the mesh
        name: String,
        /// Do not print the QR code
        #[arg(long)]
        no_qr: bool,
        /// Add a preshared key: a second secret, known to the device and this node only
        #[arg(long)]
        preshared_key: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Keys, settings and the last map [default: /var/lib/meshd; without root $XDG_STATE_HOME/meshd]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Configuration file; unknown keys are refused
    #[arg(long, value_name = "FILE", default_value = "/etc/meshd/meshd.toml")]
    pub(crate) config: PathBuf,
    /// How packets meet this host: by a mesh interface, or (`userspace`) by a TCP/IP stack inside meshd,
    /// which needs no privileges and changes nothing on the host
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Tun::Kernel)]
    pub(crate) tun: Tun,
    #[command(flatten)]
    pub(crate) userspace: UserspaceArgs,
    /// Queues for packets, each with two threads (1 to 16; default: the cores, up to 4)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) data_threads: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tun {
    /// A TUN interface (root, or NET_ADMIN)
    Kernel,
    /// No interface, no privileges
    Userspace,
}

/// What serves programs in userspace mode.
#[derive(Debug, Args, Default)]
pub(crate) struct UserspaceArgs {
    /// Serve a SOCKS5 proxy here, for example 127.0.0.1:1080 (userspace mode)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) socks5: Option<SocketAddr>,
    /// Serve an HTTP proxy here, for example 127.0.0.1:8080 (userspace mode)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) http_proxy: Option<SocketAddr>,
    /// Let a port of this node's mesh address end at an address of this host (userspace mode); may be
    /// given more than once
    #[arg(long, value_name = "PORT=ADDRESS:PORT")]
    pub(crate) forward: Vec<PortForward>,
    /// Let other machines use the proxies; they reach the mesh only, and need the credentials
    #[arg(long, requires = "proxy_credentials")]
    pub(crate) proxy_listen_any: bool,
    /// A file with `user:password`, which the proxies then ask for
    #[arg(long, value_name = "FILE")]
    pub(crate) proxy_credentials: Option<PathBuf>,
}

impl UserspaceArgs {
    /// Whether nothing was asked for.
    pub(crate) const fn is_empty(&self) -> bool {
        self.socks5.is_none()
            && self.http_proxy.is_none()
            && self.forward.is_empty()
            && self.proxy_credentials.is_none()
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    /// The state directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/meshd")]
    pub(crate) state_dir: PathBuf,
    /// Configuration file, for tests of crashes
    #[arg(long, value_name = "FILE", default_value = "/etc/meshd/meshd.toml", hide = true)]
    pub(crate) config: PathBuf,
}

/// `--advertise-routes` without a value: the network that this machine is connected to.
pub(crate) const CONNECTED: &str = "connected";

/// Settings that `up` and `set` share.
#[derive(Debug, Args, Default)]
pub(crate) struct SettingsArgs {
    /// Offer networks behind this machine; without a value, the connected one; an empty value ends it
    #[arg(long, value_name = "PREFIX,…", num_args = 0..=1, default_missing_value = CONNECTED)]
    pub(crate) advertise_routes: Option<String>,
    /// Offer to carry internet traffic of other nodes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) advertise_exit_node: Option<bool>,
    /// Send internet traffic through this node; an empty value ends it
    #[arg(long, value_name = "NODE")]
    pub(crate) exit_node: Option<String>,
    /// Use networks behind other nodes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) accept_routes: Option<bool>,
    /// Name of this node in the mesh
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Masquerade traffic from the mesh into offered networks (--snat=false keeps the source address)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) snat: Option<bool>,
    /// Let internet traffic leave directly while the exit node is away
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) exit_fallback: Option<bool>,
    /// `assist`: add rules to hooks that Docker, firewalld or ufw offer for it; `off`: touch nothing of theirs
    #[arg(long, value_name = "MODE", value_parser = ["assist", "off"])]
    pub(crate) firewall: Option<String>,
    /// How much of the mesh's names this host takes: `full` (all, with the mesh's nameservers), `split` (names
    /// of the mesh and domains with resolvers of their own), `names` (names of the mesh only), `off`
    #[arg(long, value_name = "HOW", value_parser = ["off", "names", "split", "full"])]
    pub(crate) dns: Option<String>,
    /// The same in an older form: `--dns=full` or `--dns=off`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", hide = true, conflicts_with = "dns")]
    pub(crate) accept_dns: Option<bool>,
    /// Reach these networks through the mesh although they are connected here
    #[arg(long, value_name = "PREFIX,…")]
    pub(crate) prefer_mesh: Option<String>,
}

impl SettingsArgs {
    /// What the daemon is asked to change. `--advertise-routes` without a value was replaced before.
    pub(crate) fn patch(&self) -> Settings {
        let list = |text: &String| PrefixList {
            prefixes: text.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect(),
        };
        Settings {
            advertise_routes: self.advertise_routes.as_ref().map(list),
            advertise_exit_node: self.advertise_exit_node,
            exit_node: self.exit_node.clone(),
            accept_routes: self.accept_routes,
            hostname: self.hostname.clone(),
            snat: self.snat,
            exit_fallback: self.exit_fallback,
            firewall_assist: self.firewall.as_ref().map(|mode| mode == "assist"),
            accept_dns: self.accept_dns,
            dns: self.dns.clone(),
            dns_lan: None,
            prefer_mesh: self.prefer_mesh.as_ref().map(list),
        }
    }

    /// Whether nothing is to be changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.patch() == Settings::default()
    }
}

#[cfg(test)]
mod matrix;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_take_their_value_behind_a_space_or_an_equals_sign() {
        for line in [
            ["meshd", "set", "--advertise-routes", "10.0.0.0/8"].as_slice(),
            ["meshd", "set", "--advertise-routes=10.0.0.0/8"].as_slice(),
        ] {
            let Command::Set(set) = Cli::parse_from(line).command else { panic!("not set") };
            assert_eq!(set.settings.patch().advertise_routes.unwrap().prefixes, ["10.0.0.0/8"]);
        }
        for (flag, value) in [
            ("--advertise-routes", CONNECTED),
            ("--advertise-routes=", ""),
            ("--advertise-routes=10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let Command::Set(set) = Cli::parse_from(["meshd", "set", flag]).command else {
                panic!("not set")
            };
            assert_eq!(set.settings.advertise_routes.as_deref(), Some(value), "{flag}");
        }
        let Command::Set(set) = Cli::parse_from(["meshd", "set", "--snat=false"]).command else {
            panic!("not set")
        };
        assert_eq!(set.settings.patch(), Settings { snat: Some(false), ..Settings::default() });
    }
}
