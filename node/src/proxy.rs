//! Proxies for programs on this machine that cannot use a mesh interface: SOCKS5 and HTTP.
//!
//! One listener each, on loopback unless somebody says in words that others may use it, and then only
//! with a user and a password. Names are resolved in the mesh. What clients send is hostile: every
//! message is bounded, parsed once, and must come in time; the number of clients is bounded, too.
//!
//! What the mesh has no way to is dialled through the host, so that one proxy setting serves all.

pub mod http;
mod serve;
pub mod socks5;
mod socks_udp;

use crate::userspace::target;
pub use serve::{BadProxy, Credentials, Kind, Proxy, ProxyConfig};
