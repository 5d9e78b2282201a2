//! What two programs of the mesh must agree on: keys, ids, addresses, the [`NetworkMap`], control,
//! relay and local-API messages, limits.
//!
//! This crate never does I/O, never reads a clock and never spawns. Every decoder takes bytes from a
//! stranger: sizes are bounded by [`limits`], a message is parsed once into valid types, and what is
//! not valid is an error that names the field. Unknown protobuf fields are skipped, so that version
//! N-1 and N understand each other.
//!
//! DEVIATION: [`channel`] lets `snow` draw its ephemeral keys from the operating system itself; the
//! crate offers no production way to pass them in (`docs/protocol.md`).

pub mod addr;
pub mod channel;
pub mod cluster;
pub mod control;
pub mod digest;
pub mod expose;
pub mod gateway;
pub mod hint;
pub mod id;
pub mod keys;
pub mod limits;
pub mod localapi;
pub mod netmap;
pub mod permit;
pub mod relay;
pub mod stun;
pub mod token;
mod wire;
pub mod x509;

pub use addr::{Endpoint, MeshAddr, MeshAddrs, MeshPrefixes, Prefix};
pub use digest::MapDigest;
pub use hint::Hint;
pub use id::{
    ClassId, DnsName, Epoch, Hostname, NetworkId, NodeId, RelayId, RuleId, Tag, UnixSeconds, Version,
};
pub use keys::{
    CoordinatorKey, CoordinatorSecret, MachineKey, MachineSecret, NodeKey, NodeSecret, SharedSecret,
    SigningKey, VerifyingKey,
};
pub use netmap::NetworkMap;
pub use wire::DecodeError;
