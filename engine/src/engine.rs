//! The state machine: control state of one node, owned by value by one task of the host.

use crate::data::DataSnapshot;
use crate::entropy::Entropy;
use crate::event::{EngineConfig, Event, Input, Transmit};
use crate::session::SessionFactory;
use crate::status::Status;
use arc_swap::ArcSwap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The engine. See the crate's documentation for the order of calls.
pub struct Engine<F: SessionFactory> {
    _config: EngineConfig,
    _factory: F,
    _entropy: Entropy,
    data: Arc<ArcSwap<DataSnapshot<F::Session>>>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl<F: SessionFactory> Engine<F> {
    /// An engine without a map: it does nothing until it gets one.
    ///
    /// `factory` makes the sessions for the same key as `config`. `seed` is 32 random bytes.
    pub fn new(config: EngineConfig, factory: F, seed: [u8; 32], now: Instant) -> Self {
        let _ = (config, factory, seed, now);
        todo!()
    }

    /// Takes one input. Drain [`Self::poll_transmit`] and [`Self::poll_event`] afterwards.
    pub fn handle_input(&mut self, _input: Input, _now: Instant) {}

    /// Does what is due. Call it when the time of [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Self::handle_timeout`] is to be called next; `None`: only after another input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing the host should know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the data threads use. The same cell for the engine's whole life.
    pub fn data(&self) -> Arc<ArcSwap<DataSnapshot<F::Session>>> {
        Arc::clone(&self.data)
    }

    /// How things are, for the command line.
    pub fn status(&self, _now: Instant) -> Status {
        todo!()
    }
}
