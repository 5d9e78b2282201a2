//! The host's DNS as a lease: recorded before it is changed, probed before and after it is switched,
//! kept while others write the file, given back at the end whatever way the end comes.
//!
//! [`plan()`] is pure: what [`detect()`] found and what is desired give [`DnsChange`]s. [`HostDns`] carries
//! them out, watches /etc/resolv.conf and repairs it; what dhclient or NetworkManager wrote in between
//! becomes both our upstreams and what comes back at the end. [`restore`] works from the journal alone.
//!
//! Invariants:
//! - nothing is changed before its original is on disk;
//! - nothing is switched to a resolver that does not answer, nor stays switched to one that does not
//!   answer through the host's own way;
//! - a file that somebody wrote after us is never overwritten by a restore;
//! - the resolvers of the time before us are always known ([`HostDns::previous_resolvers`]): names of
//!   coordinator and relays are asked of those.
//!
//! Every path is under a `root`, `/` in production.

mod detect;
mod files;
mod journal;
mod lease;
mod openresolv;
mod pace;
mod plan;
mod resolv_conf;
mod resolved;
mod supervise;
mod undo;
mod watch;

pub use detect::{Detected, RESOLV_CONF, detect};
pub use files::Content;
pub use journal::{Journal, ReplacedFile, SetLink, ToldOpenresolv};
pub use lease::{Handles, HostDns, HostDnsError, HostDnsStatus, Place};
pub use openresolv::{Make, Openresolv, OpenresolvError, Told};
pub use plan::{DnsChange, DnsDesired, LinkDns, plan};
pub use resolv_conf::{KEPT, MARK, ResolvConf};
pub use resolved::ResolvedError;
pub use supervise::{Supervisor, supervise};
pub use undo::{RestoreError, Restored, restore, restore_lease};

#[cfg(test)]
mod tests;
