//! The relay: forwards ciphertext between nodes that cannot reach each other directly, and tells nodes
//! their outside address (STUN).
//!
//! - [`forwarder`]: the relay as a state machine, without I/O: admission, forwarding, STUN answers.
//! - [`client`]: the node's half, without I/O: attach, keepalive, death.
//! - [`server`]: sockets around the core; the binary `meshd-relay` and the coordinator run it.
//! - [`stream`]: the same frames over TCP, TLS and WebSocket, both halves.
//!
//! Invariants: nothing here holds a key of a node or of a WireGuard session, so a relay cannot read what
//! it forwards; nothing unauthenticated gets an answer longer than its request; memory is bounded by
//! [`RelayLimits`]; the cores take time and entropy as arguments.

pub mod client;
pub mod forwarder;
pub mod server;
pub mod stream;

mod clock;
mod rate;
#[cfg(test)]
mod testnet;

pub use client::{Inbound, RelayClient, RelayEvent, encapsulate};
pub use forwarder::{Counters, RelayLimits, RelayServer};
pub use server::{RelayConfig, RelayHandle};
