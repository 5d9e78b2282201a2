//! The head of a proxy request (RFC 9112): `CONNECT host:port`, or a whole `http://` address.
//!
//! Strict where two readers could disagree: lines end with CRLF, no folded lines, no control bytes. Only
//! the head is read; what follows belongs to whoever is at the other end. Pure: the fuzzers build this file
//! by itself.

use super::target::{Host, Target, host_of};

/// The longest head, request line included.
pub const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 128;

/// A request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where to.
    pub target: Target,
    /// What `Proxy-Authorization` says, without the scheme `Basic`.
    pub basic: Option<Vec<u8>>,
    /// What the other end gets instead of the head; `None` for `CONNECT`, which is answered by us.
    pub rewritten: Option<Vec<u8>>,
    /// Length of the head in what was read.
    pub len: usize,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a head of HTTP/1.x.
    #[error("this is not a request of HTTP/1.1")]
    Syntax,
    /// The head is longer than anybody needs.
    #[error("the head of the request is too long")]
    TooLong,
    /// `GET /path`: meant for a web server.
    #[error("this is a proxy: ask with CONNECT, or for a whole http:// address")]
    NotProxied,
    /// The target cannot be read.
    #[error("the target is not HOST:PORT")]
    Target,
}

impl HeadError {
    /// The status that goes back.
    pub const fn status(self) -> &'static str {
        match self {
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Syntax | Self::NotProxied | Self::Target => "400 Bad Request",
        }
    }
}

/// Reads the head of a request from what has come so far. `None`: its end has not.
///
/// # Errors
/// See [`HeadError`].
pub fn head(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        // What cannot become a request is not waited for.
        let known = |b: &u8| matches!(b, b'\r' | b'\n' | b'\t' | b' '..=b'~' | 0x80..);
        return match bytes.len() >= MAX_HEAD {
            true => Err(HeadError::TooLong),
            false if bytes.iter().all(known) => Ok(None),
            false => Err(HeadError::Syntax),
        };
    };
    if end + 4 > MAX_HEAD {
        return Err(HeadError::TooLong);
    }
    let mut lines = Lines(&bytes[..end]);
    let request = lines.next().ok_or(HeadError::Syntax)??;
    let mut words = request.split(|b| *b == b' ');
    let (Some(method), Some(asked), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeadError::Syntax);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || !version.starts_with(b"HTTP/1.") {
        return Err(HeadError::Syntax);
    }
    let mut kept = Vec::new();
    let mut basic = None;
    for (count, line) in lines.enumerate() {
        let line = line?;
        let colon = line.iter().position(|b| *b == b':').ok_or(HeadError::Syntax)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if count >= MAX_HEADERS {
            return Err(HeadError::TooLong);
        }
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(HeadError::Syntax);
        }
        if name.eq_ignore_ascii_case(b"proxy-authorization") {
            let scheme = value.get(..6).filter(|s| s.eq_ignore_ascii_case(b"basic "));
            basic = scheme.map(|_| value[6..].trim_ascii().to_vec());
        } else if !is_hop_by_hop(name) {
            kept.extend_from_slice(line);
            kept.extend_from_slice(b"\r\n");
        }
    }
    let len = end + 4;
    if method == b"CONNECT" {
        let target = authority(asked, None).ok_or(HeadError::Target)?;
        return Ok(Some(Head { target, basic, rewritten: None, len }));
    }
    let rest = asked.get(..7).filter(|s| s.eq_ignore_ascii_case(b"http://")).map(|_| &asked[7..]);
    let rest = rest.ok_or(HeadError::NotProxied)?;
    let slash = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let target = authority(&rest[..slash], Some(80)).ok_or(HeadError::Target)?;
    let mut rewritten = [method, b" "].concat();
    if rest.get(slash) != Some(&b'/') {
        rewritten.push(b'/');
    }
    rewritten.extend_from_slice(&rest[slash..]);
    rewritten.extend_from_slice(b" HTTP/1.1\r\n");
    rewritten.extend_from_slice(&kept);
    // One request for each connection: the next one may be for another host.
    rewritten.extend_from_slice(b"Connection: close\r\n\r\n");
    Ok(Some(Head { target, basic, rewritten: Some(rewritten), len }))
}

/// Lines that end with CRLF and hold no control bytes.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], HeadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.windows(2).position(|two| two == b"\r\n").unwrap_or(self.0.len());
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..).unwrap_or_default();
        let bad = line.iter().any(|b| b.is_ascii_control() && *b != b'\t')
            || line.first().is_none_or(u8::is_ascii_whitespace);
        Some(if bad { Err(HeadError::Syntax) } else { Ok(line) })
    }
}

const fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
        || matches!(b, b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Fields that are for us (RFC 9110 §7.6.1), not for the other end.
fn is_hop_by_hop(name: &[u8]) -> bool {
    [b"connection".as_slice(), b"proxy-connection", b"keep-alive", b"proxy-authenticate"]
        .iter()
        .any(|hop| name.eq_ignore_ascii_case(hop))
}

/// `host:port`, `[v6]:port`; without a port, the default one.
fn authority(text: &[u8], default: Option<u16>) -> Option<Target> {
    // User and password in an address are a trick played on people.
    let text = std::str::from_utf8(text).ok().filter(|t| !t.contains('@'))?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            (Host::Ip(std::net::IpAddr::V6(ip.parse().ok()?)), port.strip_prefix(':'))
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
            (host_of(host.as_bytes())?, port)
        }
    };
    let port = match port.filter(|p| !p.is_empty()) {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => port.parse().ok().filter(|p| *p != 0)?,
        Some(_) => return None,
        None => default?,
    };
    Some(Target { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target_of(request: &str) -> Result<String, HeadError> {
        head(request.as_bytes()).map(|head| head.map_or("more".into(), |h| h.target.to_string()))
    }

    #[test]
    fn connect_and_whole_addresses_name_a_target() {
        assert_eq!(
            target_of("CONNECT Pi.Home.internal:443 HTTP/1.1\r\n\r\n"),
            Ok("pi.home.internal:443".into())
        );
        assert_eq!(target_of("CONNECT [fd00::1]:22 HTTP/1.0\r\nA: b\r\n\r\nrest"), Ok("[fd00::1]:22".into()));
        assert_eq!(target_of("GET http://nas/x?y HTTP/1.1\r\n\r\n"), Ok("nas:80".into()));
        assert_eq!(target_of("GET http://nas:8"), Ok("more".into()));
    }

    #[test]
    fn the_other_end_gets_its_own_part_of_a_request_only() {
        let request = "GET http://nas:81?q HTTP/1.1\r\nHost: nas:81\r\nProxy-Authorization: Basic bWU6eA==\r\n\
                       Proxy-Connection: keep-alive\r\nAccept: */*\r\n\r\n";
        let head = head(request.as_bytes()).unwrap().unwrap();
        assert_eq!(head.basic.as_deref(), Some(b"bWU6eA==".as_slice()));
        assert_eq!(head.len, request.len());
        let sent = String::from_utf8(head.rewritten.unwrap()).unwrap();
        assert_eq!(sent, "GET /?q HTTP/1.1\r\nHost: nas:81\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT nas HTTP/1.1\r\n\r\n",
            "CONNECT nas:0 HTTP/1.1\r\n\r\n",
            "CONNECT nas:+1 HTTP/1.1\r\n\r\n",
            "CONNECT me@nas:1 HTTP/1.1\r\n\r\n",
            "CONNECT  nas:1 HTTP/1.1\r\n\r\n",
            "CONNECT nas:1 HTTP/2\r\n\r\n",
            "CONNECT nas:1 HTTP/1.1\r\n folded: x\r\n\r\n",
            "CONNECT nas:1 HTTP/1.1\r\nHost : x\r\n\r\n",
            "CONNECT nas:1 HTTP/1.1\r\nA: x\ny\r\n\r\n",
            "\u{5}\u{1}\u{0}",
        ] {
            assert!(head(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(head(&vec![b'a'; MAX_HEAD]), Err(HeadError::TooLong));
    }
}
