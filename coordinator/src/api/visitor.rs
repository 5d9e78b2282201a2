//! Where a visitor is: the other end of his connection, or what a trusted reverse proxy says.
//!
//! Used to slow down who guesses, and for the logs. Nothing is allowed for it: how private a way is, is the
//! connection's own ([`Transport`](super::Transport)).

use axum::http::HeaderMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// Most entries of the header that are looked at, from its end.
const MAX_HOPS: usize = 16;

/// Reverse proxies whose word counts for where a visitor is. None by default.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

/// Where a visitor is. Put on every request by the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Visitor(pub(crate) IpAddr);

impl TrustedProxies {
    /// Those in these ranges.
    pub fn new(ranges: &[IpNet]) -> Self {
        Self(ranges.into())
    }

    /// Whether a connection from there is a proxy's.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|range| range.contains(&ip))
    }

    /// Who sent a request that came from `peer`. Each proxy adds at the end whom it heard, so the last
    /// entry that is no trusted proxy is the visitor; what stands before it he may have written himself.
    pub(super) fn visitor(&self, peer: IpAddr, headers: &HeaderMap) -> Visitor {
        let mut last = peer.to_canonical();
        let lines: Vec<&str> =
            headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().unwrap_or_default()).collect();
        let mut hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS);
        while self.contains(last) {
            match hops.next().and_then(address) {
                Some(ip) => last = ip,
                None => break,
            }
        }
        Visitor(last)
    }
}

/// An address, maybe with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()));
    ip.map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn visitor(trusted: &[&str], peer: &str, lines: &[&'static str]) -> String {
        let ranges: Vec<IpNet> = trusted.iter().map(|r| r.parse().unwrap()).collect();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        TrustedProxies::new(&ranges).visitor(peer.parse().unwrap(), &headers).0.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_what_it_added_itself() {
        let written = ["203.0.113.9, 198.51.100.4"];
        assert_eq!(visitor(&[], "192.0.2.1", &written), "192.0.2.1", "nobody is trusted by default");
        assert_eq!(visitor(&["10.0.0.0/8"], "192.0.2.1", &written), "192.0.2.1", "this one is not");
        assert_eq!(visitor(&["127.0.0.1/32"], "127.0.0.1", &written), "198.51.100.4", "the last hop");
        let chain = ["203.0.113.9, 198.51.100.4, 10.0.0.7"];
        let proxies = ["10.0.0.0/8", "127.0.0.1/32"];
        assert_eq!(visitor(&proxies, "127.0.0.1", &chain), "198.51.100.4", "two proxies");
        assert_eq!(visitor(&proxies, "::ffff:127.0.0.1", &["203.0.113.9", "198.51.100.4"]), "198.51.100.4");
    }

    #[test]
    fn ports_brackets_and_nonsense_are_read_or_left() {
        let proxy = ["127.0.0.1/32"];
        for (line, ip) in [
            ("198.51.100.4:5555", "198.51.100.4"),
            ("[2001:db8::7]:5555", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("198.51.100.4, unknown", "127.0.0.1"),
            ("", "127.0.0.1"),
        ] {
            assert_eq!(visitor(&proxy, "127.0.0.1", &[line]), ip, "{line}");
        }
        assert_eq!(visitor(&proxy, "127.0.0.1", &[]), "127.0.0.1");
        let endless: &'static str = Box::leak(["127.0.0.1"; 500].join(",").into_boxed_str());
        assert_eq!(visitor(&proxy, "127.0.0.1", &[endless]), "127.0.0.1");
    }
}
