//! Userspace mode: the same engine with a TCP/IP stack of our own in place of the TUN device.
//!
//! Needs no privilege and touches nothing of the host: no interface, no route, no firewall, no resolver.
//! [`Netstack`] turns the mesh's packets into streams and datagrams; [`Forwarder`] ends the flows to
//! networks behind this node in sockets of the host; [`Dialer`] finds the way to a name or an address;
//! [`PortForwards`] lets ports of the mesh end at addresses of the host. [`Node`] is all of it inside a program.
//!
//! Invariants:
//! - the engine's filter and source checks have run before a packet comes here: nothing here decides who
//!   may reach whom;
//! - everything is bounded: connections, half-open connections, buffers, packets under way, flows;
//! - full buffers stop the sender (TCP windows) or drop and count (datagrams), never grow.

mod device;
mod dial;
mod exit_dns;
mod forward;
mod lane;
mod netstack;
mod node;
mod packet;
mod ports;
mod service;
mod splice;
mod stack;
mod stream;
pub(crate) mod target;
mod udp;

pub use dial::{DialError, Dialed, Dialer, Reach, Way};
pub use forward::{ForwardCounters, Forwarder};
pub use lane::{Lane, Packets};
pub use netstack::{Limits, Netstack, NetstackThread};
pub use node::{Node, NodeConfig, NodeError};
pub use ports::{BadForward, PortForward, PortForwards};
pub(crate) use service::Service;
pub use service::UserspaceConfig;
pub use stream::{TcpListener, TcpStream};
pub use target::{Host, Target};
pub use udp::UdpSocket;

#[cfg(test)]
mod tests;
