//! What strangers send, thrown at every parser: one function for each fuzz target.
//!
//! A function takes bytes and panics when a promise is broken: a parser never panics, what it accepts
//! it writes and reads again as the same value, an answer is never longer than its question, and a
//! verdict agrees with who sees whom. `fuzz_targets/` hands them to libFuzzer, `tests/replay.rs` runs
//! them over the committed corpora, `examples/seeds.rs` makes those corpora.

mod control;
mod datagram;
mod gateway;
mod names;
mod packet;
mod policy;
mod proxy;
mod segments;
mod token;

pub use control::control_frame;
pub use datagram::{probe, probe_parties, relay_frame, stun};
pub use gateway::gateway_wire;
pub use names::{dns_query, dns_reply};
pub use packet::packet;
pub use policy::policy;
pub use proxy::{http_proxy, socks5};
pub use segments::segments;
pub use token::token;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("policy", policy),
    ("control_frame", control_frame),
    ("token", token),
    ("stun", stun),
    ("packet", packet),
    ("segments", segments),
    ("probe", probe),
    ("relay_frame", relay_frame),
    ("gateway_wire", gateway_wire),
    ("socks5", socks5),
    ("http_proxy", http_proxy),
    ("dns_query", dns_query),
    ("dns_reply", dns_reply),
];
