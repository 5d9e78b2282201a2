//! Public exits and `meshd expose` on real kernels: a coordinator, an exit with a public address, a laptop
//! behind a home NAT that publishes, and a machine on the internet that looks.
//!
//! Each scenario also runs once with what it shows switched off, and prints what happened then.

#[path = "exits/blind.rs"]
mod blind;
#[path = "exits/fixture.rs"]
mod fixture;
#[path = "exits/misuse.rs"]
mod misuse;
#[path = "exits/publish.rs"]
mod publish;
#[path = "exits/ways_out.rs"]
mod ways_out;
