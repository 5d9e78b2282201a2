//! A whole mesh in virtual time: N engines on marker sessions, a small internet with home NATs, a relay
//! with STUN, and a coordinator that hands out maps and hints.
//!
//! Nothing here reads a clock or the operating system's entropy: a run is a function of its seed, and a
//! failing one prints it. The network is simple on purpose (NATs of the classes of RFC 4787, one router deep);
//! kernels and real NATs are the namespace lab's business.
//!
//! What is checked all the time, whatever a test does: no datagram on the wire holds
//! a plaintext payload, and no packet is delivered to a node whose policy does not allow it, or from a
//! node that is no member. What must come true after a [`schedule`] of troubles stands there.

mod coordinator;
pub mod faults;
mod net;
mod node;
mod packets;
mod random;
pub mod schedule;
mod sessions;
mod world;

pub use coordinator::Rules;
pub use net::{Home, NatKind, Place};
pub use node::{Delivered, NodeName};
pub use packets::{Inner, inner};
pub use random::Random;
pub use sessions::Sessions;
pub use world::{World, WorldConfig};
