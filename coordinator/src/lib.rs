//! Who is in the mesh and what each may know.
//!
//! `store` (the only SQL) → [`model`] (one immutable value per version) → [`service`] (every rule and
//! every permission) → `api`, `cli`, [`web`], [`control`]. The map compiler ([`netmap`]) makes each node's view.
//!
//! Invariants:
//! - the coordinator holds no private key of anybody else and never sees a packet;
//! - what was acknowledged is on disk: a commit is durable before anybody hears of it;
//! - authorization lives in [`service`] only; callers pass an [`service::Actor`] and no flag;
//! - time comes from [`clock`], randomness from [`entropy`], nowhere else.

pub mod api;
pub mod certificate;
pub mod cli;
pub mod client;
pub mod clock;
pub mod control;
pub mod entropy;
pub mod exposing;
pub mod model;
pub mod netmap;
pub mod serve;
pub mod service;
pub mod store;
pub mod web;
