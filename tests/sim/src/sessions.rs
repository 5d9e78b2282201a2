//! Which sessions the simulated nodes have: marker sessions, or any other make that can run in virtual time.

use meshd_engine::session::SessionFactory;
use meshd_engine::session::marker::Marker;
use meshd_proto::NodeSecret;
use std::time::{Duration, Instant};

/// A make of sessions.
pub trait Sessions: SessionFactory + Sized {
    /// The factory of one node. `zero` is the beginning of the simulation.
    fn of_node(secret: &NodeSecret, zero: Instant) -> Self;

    /// The simulation has come to this time. Only for sessions that read a clock themselves.
    fn set_clock(_since_zero: Duration) {}
}

impl Sessions for Marker {
    fn of_node(secret: &NodeSecret, zero: Instant) -> Self {
        Self::new(secret.clone(), zero)
    }
}
