//! A small internet on one machine: hosts, home routers with the NATs of RFC 4787, LANs and links in
//! network namespaces, for the end-to-end tests and for `make demo`.
//!
//! Every host has its own network, mounts, host name and processes: `/etc`, `/var/lib`, `/run` and
//! `/proc` are private, so that several "machines" can run programs with fixed paths side by side.
//!
//! It never touches the network configuration, `/etc` or the firewall of the machine it runs on: no
//! interface and no address exists outside the namespaces, and nothing inside has a way out.
//!
//! Invariants: whatever a host starts dies with it (a PID namespace), hosts die with their [`Lab`], and
//! the lab dies with the thread that made it (parent-death signals), also by SIGKILL. What can stay
//! behind is a folder in the temporary directory; the next lab removes those of dead processes.

mod address;
mod capture;
mod clock;
mod gap;
mod host;
mod lab;
mod link;
mod nat;
mod process;
mod reap;

pub mod grid;
pub mod mesh;
pub mod scenario;

pub use capture::{Capture, Capturing, Packet, Transport, WireGuard};
pub use clock::{now, wait_until, wait_within};
pub use gap::longest_gap;
pub use host::Host;
pub use lab::{Lab, Lan, Router, Uplink6, program_folder};
pub use nat::Nat;
pub use process::{Finished, Process};
pub use reap::reap;
