//! The control channel's server: one task for each session, over any byte stream.
//!
//! [`Hub`] is what sessions share: the newest [`View`](crate::netmap::View), who holds a session, and the
//! soft hints of where nodes are. [`Hub::run`] follows the service's models and wakes exactly the sessions
//! that a change concerns; [`Hub::accept`] serves one connection.
//!
//! Sync is level-triggered. A session that is behind holds the view its node has, nothing else; when its
//! connection is writable and the node has acknowledged what it got, the difference from that view to the
//! newest is sent. A slow node gets a bigger difference, never a queue.
//!
//! Invariants:
//! - nothing is acted on before the node has proved its machine key in this handshake, and its node key
//!   by a MAC bound to it;
//! - sizes, rates and times of everything a node sends are bounded; so is what is kept to be written;
//! - one session for a node: the newest; a node that is revoked or gone is told and cut;
//! - hints go to nodes that asked for them lately and that see the node they are about, to nobody else.

mod handshake;
mod hints;
mod hub;
mod outbox;
mod refusal;
mod session;

pub use hub::Hub;

use std::time::Duration;

/// The whole handshake, hello included, must be done by then.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait their turn for [`HANDSHAKE_LIMIT`], then are hung up on.
const MAX_HANDSHAKES: usize = 1024;
/// Between two rounds of updates: changes in between are sent together.
const COALESCE: Duration = Duration::from_millis(150);
/// The coordinator speaks at least this often.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A node that says nothing for so long is gone (it answers keepalives).
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes that wait to be written must move within this time.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// A last word that cannot be written by then is not said.
const FAREWELL_LIMIT: Duration = Duration::from_millis(400);
/// Large updates in flight at once: each may hold some megabytes.
const MAX_LARGE_UPDATES: usize = 32;
/// When no large update is admitted, ask again after this.
const ADMISSION_RETRY: Duration = Duration::from_millis(50);
/// A node may ask for the whole map this often.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);
/// Messages a node may send within [`RATE_WINDOW`].
const RATE_LIMIT: u32 = 400;
/// See [`RATE_LIMIT`].
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Views kept for nodes that come back after a short absence.
const KEPT_VIEWS: usize = 32;

#[cfg(test)]
mod tests;
