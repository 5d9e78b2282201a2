//! The server name in a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), without ending TLS.
//!
//! The hello may be spread over several records and over any number of TCP segments; the whole of what was
//! read is parsed again at each step, which is bounded by [`MAX_HELLO`]. Nothing is copied but the name.

/// Most bytes of records that a ClientHello may take. Real ones, with post-quantum key shares, take 2 KiB.
pub const MAX_HELLO: usize = 16 * 1024;
/// Records that a hello may be cut into; a real client uses one or two.
const MAX_RECORDS: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The server name, in lower case; nothing when the client names none.
    pub server_name: Option<String>,
    /// Whether the only protocol offered is `acme-tls/1` (RFC 8737).
    pub is_acme: bool,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Partial,
    /// A whole ClientHello.
    Whole(ClientHello),
    /// No TLS ClientHello, and never will be.
    Refused(&'static str),
}

/// Reads as much of a ClientHello as there is in `bytes`, everything that came on the connection.
pub fn parse(bytes: &[u8]) -> Hello {
    // The handshake message behind the record headers is at most as long as what came.
    let mut message = Vec::with_capacity(bytes.len().min(MAX_HELLO));
    let mut rest = bytes;
    let mut records = 0;
    let whole = loop {
        if let Some(whole) = message_end(&message) {
            break whole;
        }
        let [kind, major, _, high, low, body @ ..] = rest else {
            return first_bytes_fit(rest).map_or_else(Hello::Refused, |()| limit(bytes));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        records += 1;
        if *kind != 22 || *major != 3 {
            return Hello::Refused("not a TLS handshake record");
        }
        if length == 0 || length > 1 << 14 || records > MAX_RECORDS {
            return Hello::Refused("a record of a length that is not allowed");
        }
        let there = &body[..length.min(body.len())];
        message.extend_from_slice(there);
        if message.first().is_some_and(|first| *first != 1) {
            return Hello::Refused("not a ClientHello");
        }
        if let Some(wanted) = message_length(&message)
            && wanted > MAX_HELLO
        {
            return Hello::Refused("a ClientHello that is too long");
        }
        if there.len() < length && message_end(&message).is_none() {
            return limit(bytes);
        }
        rest = &body[there.len()..];
    };
    match hello(&message[4..whole]) {
        Some(hello) => Hello::Whole(hello),
        None => Hello::Refused("a ClientHello that is not well-formed"),
    }
}

/// Not whole yet: wait, unless it is already as long as it may get.
fn limit(bytes: &[u8]) -> Hello {
    if bytes.len() >= MAX_HELLO { Hello::Refused("a ClientHello that is too long") } else { Hello::Partial }
}

/// Whether less than a record header can still become one.
fn first_bytes_fit(bytes: &[u8]) -> Result<(), &'static str> {
    match bytes {
        [] | [22] | [22, 3, ..] => Ok(()),
        _ => Err("not a TLS handshake record"),
    }
}

fn message_length(message: &[u8]) -> Option<usize> {
    let length = message.get(1..4)?;
    Some(usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]))
}

fn message_end(message: &[u8]) -> Option<usize> {
    let end = message_length(message)? + 4;
    (message.len() >= end).then_some(end)
}

/// The body of the message.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?; // legacy_version, random
    reader.short_vector()?; // legacy_session_id
    let suites = reader.vector()?;
    let compression = reader.short_vector()?;
    if suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return None;
    }
    let mut found = ClientHello::default();
    if reader.0.is_empty() {
        return Some(found);
    }
    let mut extensions = Reader(reader.vector()?);
    if !reader.0.is_empty() {
        return None;
    }
    let mut seen_name = false;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let value = extensions.vector()?;
        match kind {
            0 if seen_name => return None,
            0 => {
                seen_name = true;
                found.server_name = Some(server_name(value)?);
            }
            16 => found.is_acme = only_acme(value)?,
            _ => {}
        }
    }
    Some(found)
}

/// The one host name of the list (RFC 6066 §3: at most one of a type, ASCII, no final dot).
fn server_name(value: &[u8]) -> Option<String> {
    let mut list = Reader(Reader(value).vector()?);
    let kind = list.take(1)?;
    let name = list.vector()?;
    if kind != [0] || name.is_empty() || name.len() > 253 || !list.0.is_empty() {
        return None;
    }
    let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let name = name.strip_suffix(b".").unwrap_or(name);
    if !name.iter().all(fits) {
        return None;
    }
    std::str::from_utf8(name).ok().map(str::to_ascii_lowercase)
}

fn only_acme(value: &[u8]) -> Option<bool> {
    let mut list = Reader(Reader(value).vector()?);
    let first = list.short_vector()?;
    Some(first == b"acme-tls/1" && list.0.is_empty())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }

    fn short_vector(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: &[u8]) -> Vec<u8> {
        let mut out = vec![22, 3, 1];
        out.extend((body.len() as u16).to_be_bytes());
        out.extend(body);
        out
    }

    /// The handshake message of a real client.
    fn real(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        let mut out = Vec::new();
        client.write_tls(&mut out).unwrap();
        out
    }

    #[test]
    fn a_real_client_is_understood_however_it_is_cut() {
        let whole = real("Home.Example.com");
        let expected =
            Hello::Whole(ClientHello { server_name: Some("home.example.com".into()), is_acme: false });
        assert_eq!(parse(&whole), expected);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Hello::Partial, "{end}");
        }
        let message = &whole[5..];
        for size in [5, 7, 100, 255] {
            let cut: Vec<u8> = message.chunks(size.max(message.len() / 60)).flat_map(record).collect();
            assert_eq!(parse(&cut), expected, "{size}");
        }
        let mut trailing = whole.clone();
        trailing.extend([0; 40]);
        assert_eq!(parse(&trailing), expected);
    }

    #[test]
    fn what_is_no_hello_is_refused_at_once() {
        assert!(matches!(parse(b"GET / HTTP/1.1\r\n"), Hello::Refused(_)));
        assert!(matches!(parse(b"G"), Hello::Refused(_)));
        assert!(matches!(parse(&record(&[2, 0, 0, 4])), Hello::Refused(_)));
        assert!(matches!(parse(&record(&[1, 0xff, 0xff, 0xff])), Hello::Refused(_)));
        assert!(matches!(parse(&record(&[])), Hello::Refused(_)));
        let crumbs: Vec<u8> =
            std::iter::once(1).chain([0, 0x10, 0]).chain([0; 100]).flat_map(|b| record(&[b])).collect();
        assert!(matches!(parse(&crumbs), Hello::Refused(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let _ = parse(&bytes);
            let mut framed = real("a.example");
            let at = cut % framed.len();
            for (i, b) in bytes.iter().enumerate().take(8) {
                let len = framed.len();
                framed[(at + i) % len] = *b;
            }
            let _ = parse(&framed);
        }
    }
}
