//! What is to be published: the arguments, understood once.

use super::config::Ports;
use crate::cli;
use crate::output::CliError;
use meshd_proto::DnsName;
use meshd_proto::expose::{Claim, ClaimKind, WEB_PORT};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// What the program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    Tcp,
    Udp,
    /// TLS of its own.
    Tls,
}

/// Where it is to be found on exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Public {
    pub(super) name: Option<DnsName>,
    /// 0: any.
    pub(super) port: u16,
}

/// What is to be published.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) target: SocketAddr,
    pub(super) speaks: Speaks,
    pub(super) public: Vec<Public>,
    pub(super) challenges: Option<SocketAddr>,
    pub(super) lifetime: Option<Duration>,
}

impl Wish {
    pub(super) fn of(args: &cli::Expose) -> Result<Self, CliError> {
        let speaks = match (args.tcp, args.udp, args.passthrough) {
            (true, ..) => Speaks::Tcp,
            (_, true, _) => Speaks::Udp,
            (.., true) => Speaks::Tls,
            _ => Speaks::Http,
        };
        let public = args.public.iter().map(|text| public(text)).collect::<Result<Vec<_>, _>>()?;
        let wish = Self {
            target: target(&args.target)?,
            speaks,
            public,
            challenges: args.challenges.as_deref().map(target).transpose()?,
            lifetime: args.lifetime.as_deref().map(lifetime).transpose()?,
        };
        let nameless = wish.public.iter().any(|p| p.name.is_none());
        if speaks == Speaks::Tls && nameless {
            return Err(CliError::usage("TLS is passed through by name", "--public NAME says which"));
        }
        let wildcard = |p: &Public| p.name.as_ref().is_some_and(|n| n.as_str().starts_with('*'));
        if wish.orders(args) && wish.public.iter().any(wildcard) {
            return Err(CliError::usage(
                "a certificate for a wildcard cannot be ordered over HTTP",
                "give one with --cert and --key, or name the hosts one by one",
            ));
        }
        let fixed = |p: &Public| p.name.is_some() && p.port != 0;
        if matches!(speaks, Speaks::Http | Speaks::Tls) && wish.public.iter().any(fixed) {
            return Err(CliError::usage("a website's name is published on port 443", "leave the port away"));
        }
        Ok(wish)
    }

    pub(super) fn is_public(&self) -> bool {
        !self.public.is_empty()
    }

    /// The names of websites.
    pub(super) fn names(&self) -> Vec<&DnsName> {
        self.public.iter().filter_map(|p| p.name.as_ref()).collect()
    }

    /// Whether TLS ends in this process.
    pub(super) fn ends_tls(&self) -> bool {
        self.speaks == Speaks::Http && !self.names().is_empty()
    }

    /// Whether a certificate has to be ordered.
    pub(super) fn orders(&self, args: &cli::Expose) -> bool {
        self.ends_tls() && args.cert.is_none()
    }

    /// What the coordinator is asked for.
    pub(super) fn claims(&self, ports: &Ports, args: &cli::Expose) -> Vec<Claim> {
        let claim = |public: &Public| {
            let by_name = matches!(self.speaks, Speaks::Http | Speaks::Tls) && public.name.is_some();
            let (kind, port, target, plain_target) = match self.speaks {
                _ if by_name => (ClaimKind::Web, WEB_PORT, ports.site, ports.plain),
                Speaks::Udp => (ClaimKind::Udp, public.port, ports.stream, 0),
                _ => (ClaimKind::Tcp, public.port, ports.stream, 0),
            };
            Claim {
                id: id(&[
                    &args.target,
                    &format!("{kind:?}"),
                    &format!("{public:?}"),
                    &format!("{:?}", args.exit),
                ]),
                kind,
                name: public.name.clone(),
                port,
                target,
                plain_target,
                exit: args.exit.clone(),
            }
        };
        self.public.iter().map(claim).collect()
    }
}

/// The same thing published again has the same id, so that it gets the same port.
fn id(parts: &[&str]) -> u64 {
    let parts: Vec<&[u8]> = parts.iter().map(|p| p.as_bytes()).collect();
    let hash = meshd_proto::keys::hash("meshd expose", &parts);
    hash[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// `3000`, `nas.lan:443`, `192.168.1.7:80`.
fn target(text: &str) -> Result<SocketAddr, CliError> {
    let wrong = || CliError::usage(format!("`{text}` is no [HOST:]PORT"), "write 3000 or nas.lan:443");
    if let Ok(port) = text.parse::<u16>() {
        return if port == 0 { Err(wrong()) } else { Ok(([127, 0, 0, 1], port).into()) };
    }
    let found = text.to_socket_addrs().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => wrong(),
        _ => CliError::new(format!("{text}: {error}"), "is the host's name right?"),
    })?;
    found.into_iter().find(|a| a.port() != 0).ok_or_else(wrong)
}

fn public(text: &str) -> Result<Public, CliError> {
    let wrong = |why: String| {
        CliError::usage(format!("--public {text}: {why}"), "write a name, :PORT, NAME:PORT, or nothing")
    };
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().map_err(|_| wrong("no port behind the colon".to_owned()))?),
        None => (text, 0),
    };
    let name = (!name.is_empty()).then(|| name.parse::<DnsName>()).transpose();
    let name = name.map_err(|e| wrong(e.to_string()))?;
    if name.as_ref().is_some_and(|n| !n.as_str().contains('.')) {
        return Err(wrong("a public name has a dot in it; the port to share comes first".to_owned()));
    }
    Ok(Public { name, port })
}

fn lifetime(text: &str) -> Result<Duration, CliError> {
    let wrong = || CliError::usage(format!("--for {text} is no time"), "write 90s, 30m, 2h or 1d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let scale = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    if count == 0 { Err(wrong()) } else { Ok(Duration::from_secs(u64::from(count) * scale)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_place_is_a_name_a_port_both_or_neither() {
        let read = |text: &str| public(text).map(|p| (p.name.map(|n| n.to_string()), p.port)).ok();
        assert_eq!(read(""), Some((None, 0)));
        assert_eq!(read(":5432"), Some((None, 5432)));
        assert_eq!(read("*.kl.example"), Some((Some("*.kl.example".into()), 0)));
        assert_eq!(read("db.example:5432"), Some((Some("db.example".into()), 5432)));
        for bad in ["3000", "a..b", "x.example:", "x.example:y"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(lifetime("2h").unwrap(), Duration::from_secs(7200));
        for bad in ["", "2", "0s", "h", "-1h", "2w", "2ü"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_target_is_here_unless_a_host_is_named() {
        assert_eq!(target("3000").unwrap().to_string(), "127.0.0.1:3000");
        assert_eq!(target("192.168.1.7:80").unwrap().to_string(), "192.168.1.7:80");
        assert!(target("0").is_err() && target("http").is_err());
    }
}
