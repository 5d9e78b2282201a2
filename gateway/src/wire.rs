//! What strangers send before anything is known of them, as pure parsers: the TLS ClientHello, the PROXY v2
//! header, the framing of HTTP/1 messages.
//!
//! They read bytes and return values. They never allocate by a length that the sender names, never do I/O,
//! and never panic on any input (fuzzed).

pub mod client_hello;
pub mod framing;
pub mod proxy_v2;
