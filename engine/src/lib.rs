//! The mesh as a state machine: sessions, peers, path choice, routes, connection tracking.
//!
//! This crate never reads a clock, never opens a socket or a file, never spawns and never blocks on
//! anything but its own short locks. Time and entropy are arguments (`now` last, `seed` in
//! constructors), with one exception that is written down in [`session::wireguard`].
//!
//! It comes in two halves (DESIGN §2):
//!
//! - [`Engine`] is control state, owned by value by one task of the host.
//! - [`data`] holds pure functions over a published [`data::DataSnapshot`] and buffers of the caller:
//!   what the data threads (and the simulation) run for every packet.
//!
//! # The order of calls
//!
//! | kind | methods | rule |
//! |---|---|---|
//! | input | [`Engine::handle_input`], [`Engine::handle_timeout`] | call whenever something happened, or when the time of [`Engine::poll_timeout`] has come |
//! | output | [`Engine::poll_transmit`], [`Engine::poll_event`] | after every input: call until both return `None` |
//! | wake-up | [`Engine::poll_timeout`] | after the outputs are drained |
//! | views | [`Engine::data`], [`Engine::status`] | any time |

pub mod data;
mod engine;
mod entropy;
pub mod event;
pub mod nat;
pub mod packet;
pub mod path;
mod peers;
pub mod self_test;
pub mod session;
pub mod status;
mod stun;
#[cfg(test)]
mod tests;
mod timers;

pub use engine::Engine;
pub use event::{
    Destination, EngineConfig, Event, Input, PathReason, Preshared, Settings, Source, Transmit, Via,
};
