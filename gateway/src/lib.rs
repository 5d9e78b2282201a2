//! The gateway: L4 and L7 proxy, in a cluster or as a public exit.
//!
//! [`table`] compiles a configuration, [`wire`] reads what strangers send first, [`runtime`] holds sockets
//! and connections, [`dial`] is the seam to the networks that backends are in.
//!
//! Invariants: a configuration is taken whole or refused whole · nothing is forwarded but to a backend of
//! the configuration · what a client sends is bounded before it is understood.

pub mod acme;
pub mod admin;
pub mod cli;
mod clock;
mod conn;
pub mod dial;
pub mod exit;
pub mod file;
mod health;
pub mod http;
mod limit;
pub mod log;
pub mod mesh;
mod pump;
pub mod runtime;
pub mod stats;
pub mod stream;
pub mod table;
pub mod tls;
mod udp;
pub mod wire;

pub use file::{LoadError, load};
pub use meshd_proto::gateway::{GatewayConfig, GatewayConfigError};
