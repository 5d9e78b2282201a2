//! Names: zones, views, lookup, forwarder and the server that carries them.
//!
//! The pure core turns a client's packet and a [`View`] into a [`Decision`]: [`query`] parses the
//! packet once, [`cache`] may know the reply, [`view`] says which zone answers or where the question goes, [`lookup`] walks one
//! [`zone`], [`answer`] writes the reply. It never does I/O and never reads a clock. The thin shell
//! around it is [`forward`] (asks the upstream resolvers) and [`server`] (sockets).
//!
//! Invariants:
//! - a view is an immutable value that holds only what one asker may know; a hidden name and one that
//!   does not exist give the same bytes;
//! - what is forwarded leaves as the client wrote it, but for its id: types and EDNS options that this
//!   crate has never heard of pass both ways;
//! - no question of ours goes to one of our own listeners.

pub mod answer;
pub mod cache;
mod clock;
pub mod ede;
pub mod forward;
pub mod lookup;
pub mod probe;
pub mod query;
pub mod record;
pub mod server;
pub mod view;
pub mod zone;

pub use answer::Answer;
pub use forward::{Forwarder, Upstream};
pub use query::{ClientQuery, QueryError};
pub use server::{Audience, DnsServer, Lan, Listener, Names, SpawnError};
pub use view::{Decision, Nearness, Route, Scope, View};
pub use zone::{RrSet, Zone};
