//! The messages of SOCKS5 (RFC 1928) and of its user and password method (RFC 1929), as bytes.
//!
//! Parsers read a prefix of what has come so far: [`Parsed::More`] asks for more, which never goes beyond
//! the length of the longest message (513 bytes). They never panic and never allocate by a claimed length.
//! Pure: the fuzzers build this file by itself.

use super::target::{Host, Target, host_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// No authentication.
pub const NO_AUTH: u8 = 0;
/// User and password.
pub const PASSWORD: u8 = 2;
/// None of the methods is acceptable.
pub const NO_METHOD: u8 = 0xff;
/// The longest message: user and password.
pub const LONGEST: usize = 513;

const VERSION: u8 = 5;
const PASSWORD_VERSION: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// A message, if all of it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The message and its length.
    Done(T, usize),
    /// Its end has not come yet.
    More,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Not SOCKS5 at all: an HTTP client, perhaps.
    #[error("not SOCKS5 (the first byte is {0})")]
    Version(u8),
    /// No method offered.
    #[error("no authentication method is offered")]
    NoMethods,
    /// An unknown kind of address.
    #[error("address type {0} is unknown")]
    AddressType(u8),
    /// Not a host name.
    #[error("the host name has bytes that host names have not")]
    Name,
    /// A reserved field, or a fragment.
    #[error("a field that must be zero is not")]
    NotZero,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The command; `None`: not known here.
    pub command: Option<Command>,
    /// Where to.
    pub target: Target,
}

/// The commands served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A TCP connection.
    Connect,
    /// A relay for UDP.
    UdpAssociate,
}

/// The codes of replies (RFC 1928 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// Done.
    Succeeded = 0,
    /// Anything that has no code of its own.
    GeneralFailure = 1,
    /// A firewall on the way said no.
    NotAllowed = 2,
    /// Nobody has a way there.
    NetworkUnreachable = 3,
    /// No such host, or no way to it any more.
    HostUnreachable = 4,
    /// Nobody listens there.
    ConnectionRefused = 5,
    /// Nobody answers.
    TtlExpired = 6,
    /// BIND, or an unknown command.
    CommandNotSupported = 7,
    /// Neither an address nor a name.
    AddressTypeNotSupported = 8,
}

impl Reply {
    /// The code for an error of a connection.
    pub const fn of(kind: std::io::ErrorKind) -> Self {
        use std::io::ErrorKind as E;
        match kind {
            E::PermissionDenied => Self::NotAllowed,
            E::NetworkUnreachable | E::NotConnected => Self::NetworkUnreachable,
            E::HostUnreachable => Self::HostUnreachable,
            E::ConnectionRefused => Self::ConnectionRefused,
            E::TimedOut => Self::TtlExpired,
            _ => Self::GeneralFailure,
        }
    }

    /// The whole message, with the address that goes with it.
    pub fn message(self, bound: SocketAddr) -> Vec<u8> {
        let mut bytes = vec![VERSION, self as u8, 0];
        address(&mut bytes, bound);
        bytes
    }
}

/// The methods that a client offers.
///
/// # Errors
/// When it is no greeting.
pub fn greeting(bytes: &[u8]) -> Result<Parsed<Vec<u8>>, SocksError> {
    let Some(version) = bytes.first() else { return Ok(Parsed::More) };
    if *version != VERSION {
        return Err(SocksError::Version(*version));
    }
    let Some(count) = bytes.get(1) else { return Ok(Parsed::More) };
    if *count == 0 {
        return Err(SocksError::NoMethods);
    }
    let end = 2 + usize::from(*count);
    Ok(bytes.get(2..end).map_or(Parsed::More, |methods| Parsed::Done(methods.to_vec(), end)))
}

/// User and password (RFC 1929 §2).
///
/// # Errors
/// When it is another message.
#[expect(clippy::type_complexity, reason = "two byte strings, as the RFC has them")]
pub fn password(bytes: &[u8]) -> Result<Parsed<(Vec<u8>, Vec<u8>)>, SocksError> {
    let Some(version) = bytes.first() else { return Ok(Parsed::More) };
    if *version != PASSWORD_VERSION {
        return Err(SocksError::Version(*version));
    }
    let field = |at: usize| {
        let end = at + 1 + usize::from(*bytes.get(at)?);
        Some((bytes.get(at + 1..end)?, end))
    };
    let parsed = field(1).and_then(|(user, next)| {
        let (password, end) = field(next)?;
        Some(Parsed::Done((user.to_vec(), password.to_vec()), end))
    });
    Ok(parsed.unwrap_or(Parsed::More))
}

/// A request (RFC 1928 §4).
///
/// # Errors
/// When it is none, or its address cannot be read.
pub fn request(bytes: &[u8]) -> Result<Parsed<Request>, SocksError> {
    let Some(version) = bytes.first() else { return Ok(Parsed::More) };
    if *version != VERSION {
        return Err(SocksError::Version(*version));
    }
    let (Some(command), Some(reserved)) = (bytes.get(1), bytes.get(2)) else { return Ok(Parsed::More) };
    if *reserved != 0 {
        return Err(SocksError::NotZero);
    }
    let command = match command {
        1 => Some(Command::Connect),
        3 => Some(Command::UdpAssociate),
        _ => None,
    };
    Ok(match target(bytes, 3)? {
        Parsed::Done(target, end) => Parsed::Done(Request { command, target }, end),
        Parsed::More => Parsed::More,
    })
}

/// A datagram of a client (RFC 1928 §7): where to, and its payload. Fragments are refused, as the RFC
/// allows.
///
/// # Errors
/// When it is none. `Ok(More)`: cut off.
pub fn datagram(bytes: &[u8]) -> Result<Parsed<Target>, SocksError> {
    match bytes.get(..3) {
        Some([0, 0, 0]) => target(bytes, 3),
        Some(_) => Err(SocksError::NotZero),
        None => Ok(Parsed::More),
    }
}

/// A datagram for a client.
pub fn datagram_from(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0];
    address(&mut bytes, from);
    bytes.extend_from_slice(payload);
    bytes
}

fn address(bytes: &mut Vec<u8>, at: SocketAddr) {
    match at.ip() {
        IpAddr::V4(ip) => {
            bytes.push(IPV4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(IPV6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(at.port().to_be_bytes());
}

fn target(bytes: &[u8], at: usize) -> Result<Parsed<Target>, SocksError> {
    let Some(kind) = bytes.get(at) else { return Ok(Parsed::More) };
    let rest = bytes.get(at + 1..).unwrap_or_default();
    let (host, len) = match *kind {
        IPV4 => match rest.first_chunk::<4>() {
            Some(octets) => (Host::Ip(Ipv4Addr::from(*octets).into()), 4),
            None => return Ok(Parsed::More),
        },
        IPV6 => match rest.first_chunk::<16>() {
            Some(octets) => (Host::Ip(Ipv6Addr::from(*octets).to_canonical()), 16),
            None => return Ok(Parsed::More),
        },
        NAME => {
            let Some(len) = rest.first() else { return Ok(Parsed::More) };
            let end = 1 + usize::from(*len);
            match rest.get(1..end) {
                Some(name) => (host_of(name).ok_or(SocksError::Name)?, end),
                None => return Ok(Parsed::More),
            }
        }
        other => return Err(SocksError::AddressType(other)),
    };
    Ok(match rest.get(len..len + 2) {
        Some(port) => {
            let port = u16::from_be_bytes([port[0], port[1]]);
            Parsed::Done(Target { host, port }, at + 1 + len + 2)
        }
        None => Parsed::More,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_name(name: &str, port: u16) -> Target {
        Target { host: Host::Name(name.to_owned()), port }
    }

    #[test]
    fn every_prefix_of_a_message_asks_for_more_and_the_whole_one_is_read() {
        let mut wire = vec![5, 1, 0, 3, 10];
        wire.extend(b"Pi.home.In");
        wire.extend([0x1f, 0x90]);
        for end in 0..wire.len() {
            assert_eq!(request(&wire[..end]), Ok(Parsed::More), "{end}");
        }
        let whole = Request { command: Some(Command::Connect), target: by_name("pi.home.in", 8080) };
        assert_eq!(request(&[wire.clone(), vec![9]].concat()), Ok(Parsed::Done(whole, wire.len())));
        let hello = [5, 2, 0, 2];
        assert_eq!(greeting(&hello), Ok(Parsed::Done(vec![0, 2], 4)));
        assert_eq!(greeting(&hello[..3]), Ok(Parsed::More));
        let secret = [1, 2, b'm', b'e', 1, b'x'];
        assert_eq!(password(&secret), Ok(Parsed::Done((b"me".to_vec(), b"x".to_vec()), 6)));
        assert_eq!(password(&secret[..4]), Ok(Parsed::More));
    }

    #[test]
    fn what_is_not_socks_is_refused_with_the_reason() {
        assert_eq!(greeting(b"GET / HTTP/1.1"), Err(SocksError::Version(b'G')));
        assert_eq!(greeting(&[5, 0]), Err(SocksError::NoMethods));
        assert_eq!(request(&[5, 1, 0, 9]), Err(SocksError::AddressType(9)));
        assert_eq!(request(&[5, 1, 0, 3, 3, b'a', 0, b'b', 0, 1]), Err(SocksError::Name));
        assert_eq!(request(&[5, 1, 0, 3, 0, 0, 1]), Err(SocksError::Name));
        assert_eq!(datagram(&[0, 0, 1, 1]), Err(SocksError::NotZero));
        let bind = request(&[5, 2, 0, 1, 1, 2, 3, 4, 0, 9]).unwrap();
        assert!(matches!(bind, Parsed::Done(Request { command: None, .. }, 10)));
    }

    #[test]
    fn a_datagram_for_a_client_reads_back_as_one_of_a_client() {
        for from in ["192.0.2.1:53", "[2001:db8::1]:53"] {
            let from: SocketAddr = from.parse().unwrap();
            let bytes = datagram_from(from, b"data");
            let target = Target { host: Host::Ip(from.ip()), port: 53 };
            assert_eq!(datagram(&bytes), Ok(Parsed::Done(target, bytes.len() - 4)));
        }
    }
}
