//! Header fields between two hops: what stays, what goes, what is said about the client.

use crate::conn::Peer;
use crate::table::contains;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes the fields that end at this hop (RFC 9110 §7.6.1), and those that `Connection` names.
pub(super) fn strip_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // These are nobody's to remove: the next hop would see another request.
            .filter(|name| {
                *name != header::HOST
                    && *name != header::CONTENT_LENGTH
                    && *name != header::AUTHORIZATION
                    && *name != header::COOKIE
            })
            .collect();
        headers.remove(header::CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &header::TRANSFER_ENCODING,
        &header::UPGRADE,
        &HTTP2_SETTINGS,
        &header::PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
    // `trailers` is the only value that may go on, and what gRPC needs.
    if headers.contains_key(header::TE) {
        let trailers = headers
            .get_all(header::TE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case("trailers"));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The protocol that a request wants to change to, when it does (RFC 9110 §7.8).
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let names = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    let listed = names.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"));
    // HTTP/2 in the clear is spoken by prior knowledge only: in a tunnel it would ask for other paths and
    // hosts past the rules. One value in one field, so that nobody reads a second one.
    let several = headers.get_all(header::UPGRADE).iter().count() > 1;
    let h2c = wanted.as_bytes().split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (listed && !h2c && !several).then(|| wanted.clone())
}

/// Says who the client is. What it said itself stays only when the listener trusts it.
pub(super) fn forwarded(headers: &mut HeaderMap, peer: &Peer, trusted: &[ipnet::IpNet], authority: &str) {
    let ip = peer.client.ip().to_canonical();
    let text = ip.to_string();
    let value = HeaderValue::from_str(&text).ok();
    if !trusted.is_empty() && contains(trusted, ip) {
        let before = headers
            .get_all(&FORWARDED_FOR)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .collect::<Vec<_>>()
            .join(", ");
        let joined = if before.is_empty() { text } else { format!("{before}, {text}") };
        set(headers, &FORWARDED_FOR, HeaderValue::from_str(&joined).ok());
        if !headers.contains_key(&FORWARDED_PROTO) {
            headers.insert(&FORWARDED_PROTO, HeaderValue::from_static(peer.scheme()));
        }
        if !headers.contains_key(&FORWARDED_HOST) {
            set(headers, &FORWARDED_HOST, HeaderValue::from_str(authority).ok());
        }
        return;
    }
    for name in [&header::FORWARDED, &FORWARDED_PORT] {
        headers.remove(name);
    }
    set(headers, &REAL_IP, value.clone());
    set(headers, &FORWARDED_FOR, value);
    headers.insert(&FORWARDED_PROTO, HeaderValue::from_static(peer.scheme()));
    set(headers, &FORWARDED_HOST, HeaderValue::from_str(authority).ok());
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// Several `cookie` fields of HTTP/2 as the one that HTTP/1 has (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The host of `host[:port]`, in lower case and without a final dot; nothing when it is none.
pub(super) fn host_of(authority: &str) -> Option<String> {
    let host = if authority.starts_with('[') {
        let end = authority.find(']')?;
        port_fits(&authority[end + 1..])?;
        let ip: std::net::Ipv6Addr = authority[1..end].parse().ok()?;
        return Some(IpAddr::V6(ip).to_string());
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        port_fits(port)?;
        host
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let whole = !host.is_empty() && host.len() <= 253 && host.bytes().all(fits);
    whole.then(|| host.to_ascii_lowercase())
}

fn port_fits(rest: &str) -> Option<()> {
    match rest.strip_prefix(':') {
        None => rest.is_empty().then_some(()),
        Some(port) => port.parse::<u16>().ok().map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    #[test]
    fn fields_of_one_hop_do_not_go_on() {
        let mut map = headers(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_hop(&mut map);
        let mut left: Vec<_> = map.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["te=trailers", "x-kept=1"]);
        let mut abuse = headers(&[
            ("connection", "host, content-length, authorization"),
            ("host", "a"),
            ("authorization", "b"),
        ]);
        strip_hop(&mut abuse);
        assert_eq!(abuse.len(), 2);
    }

    #[test]
    fn an_upgrade_needs_both_fields() {
        assert!(
            upgrade(&headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")])).is_some()
        );
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        for forbidden in ["h2c", "H2C", "websocket, h2c", "foo,h2c"] {
            assert!(
                upgrade(&headers(&[("upgrade", forbidden), ("connection", "upgrade")])).is_none(),
                "{forbidden}"
            );
        }
        let two = headers(&[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")]);
        assert!(upgrade(&two).is_none());
    }

    #[test]
    fn a_host_is_read_without_its_port_or_not_at_all() {
        for (text, host) in [
            ("A.Example:80", Some("a.example")),
            ("a.example.", Some("a.example")),
            ("[2001:DB8::1]:443", Some("2001:db8::1")),
            ("192.0.2.1", Some("192.0.2.1")),
            ("", None),
            ("a b", None),
            ("user@a", None),
            ("a:x", None),
            ("a:1:2", None),
            ("[::1", None),
            ("a/b", None),
        ] {
            assert_eq!(host_of(text).as_deref(), host, "{text}");
        }
    }
}
