//! An HTTP proxy that opens tunnels by CONNECT: from the configuration or the environment.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Where programs look for a proxy, in order.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// An HTTP proxy and whom it is not for.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    address: String,
    authorization: Option<Zeroizing<String>>,
    /// Hosts, domains and addresses that are reached without it.
    except: Vec<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

/// Why a proxy cannot be used. Does not repeat the text: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// Another kind.
    #[error("only HTTP proxies are supported: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    Scheme,
    /// Not a place.
    #[error("the proxy's address is not HOST:PORT")]
    Address,
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST[:PORT]`, the scheme may be missing.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str, except: &str) -> Result<Self, BadProxy> {
        let rest = match text.trim().split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(BadProxy::Scheme),
            None => text.trim(),
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, rest),
        };
        let has_port = place.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok_and(|p| p != 0) && (!host.contains(':') || host.ends_with(']'))
        });
        let address = match has_port {
            true => place.to_owned(),
            false if place.contains(':') && !place.ends_with(']') => return Err(BadProxy::Address),
            false => format!("{place}:80"),
        };
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(BadProxy::Address);
        }
        let authorization = credentials.map(|c| {
            let (user, password) = c.split_once(':').unwrap_or((c, ""));
            let pair =
                Zeroizing::new([&percent_decoded(user)[..], b":", &percent_decoded(password)].concat());
            Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)))
        });
        let except = except.split(',').map(|e| e.trim().trim_start_matches('.').to_ascii_lowercase());
        Ok(Self { address, authorization, except: except.filter(|e| !e.is_empty()).collect() })
    }

    /// The proxy that the environment names: `HTTPS_PROXY`, else `ALL_PROXY`, and who does without
    /// (`NO_PROXY`). One that cannot be used is named in the log.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let (name, text) = VARIABLES
            .into_iter()
            .find_map(|name| Some((name, variable(name).filter(|text| !text.trim().is_empty())?)))?;
        let except = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        match Self::parse(&text, &except) {
            Ok(proxy) => Some(proxy),
            Err(error) => {
                tracing::warn!(variable = name, %error, "the proxy of the environment is not used");
                None
            }
        }
    }

    /// `host:port` of the proxy.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The header that proves who we are.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_ref().map(|a| a.as_str())
    }

    /// Whether the proxy is for `target` (`host:port`).
    pub(super) fn serves(&self, target: &str) -> bool {
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let excepted = self.except.iter().any(|e| {
            e == "*" || *e == host || host.strip_suffix(e.as_str()).is_some_and(|rest| rest.ends_with('.'))
        });
        !loopback && !excepted
    }
}

fn percent_decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut at = 0;
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_with_its_password_which_is_never_shown() {
        let proxy = Proxy::parse("http://al%40ice:p%3Aw@proxy.example:3128/", "").unwrap();
        assert_eq!(proxy.address(), "proxy.example:3128");
        let expected = format!("Basic {}", STANDARD.encode("al@ice:p:w"));
        assert_eq!(proxy.authorization(), Some(expected.as_str()));
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:3128)");
        assert_eq!(Proxy::parse("proxy", "").unwrap().address(), "proxy:80");
        assert_eq!(Proxy::parse("[2001:db8::1]:8080", "").unwrap().address(), "[2001:db8::1]:8080");
        assert_eq!(Proxy::parse("socks5://x:1", ""), Err(BadProxy::Scheme));
        for bad in ["http://", "http://:80", "http://x:port", "http://a b:1", "2001:db8::1"] {
            assert_eq!(Proxy::parse(bad, ""), Err(BadProxy::Address), "{bad}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy_and_who_does_without_it() {
        let variables = |name: &str| match name {
            "ALL_PROXY" => Some("http://p:1".to_owned()),
            "https_proxy" => Some(" ".to_owned()),
            "NO_PROXY" => Some("example.com, .internal,10.0.0.1".to_owned()),
            _ => None,
        };
        let proxy = Proxy::from_environment(variables).unwrap();
        assert_eq!(proxy.address(), "p:1");
        for direct in ["example.com:443", "A.Example.com:1", "x.internal:5", "10.0.0.1:443", "[::1]:443"] {
            assert!(!proxy.serves(direct), "{direct}");
        }
        for served in ["notexample.com:443", "10.0.0.12:443", "internal.org:1"] {
            assert!(proxy.serves(served), "{served}");
        }
        assert_eq!(Proxy::from_environment(|_| None), None);
        assert_eq!(Proxy::from_environment(|_| Some("https://x:1".to_owned())), None);
    }
}
