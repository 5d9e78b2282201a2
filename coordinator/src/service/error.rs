//! What can go wrong, in the words of a person: what happened, and what to do about it.

use crate::service::Permission;
use crate::store::StoreError;
use meshd_proto::{Prefix, UnixSeconds};

/// Why an admin's request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The role does not allow it.
    #[error("{actor} may not do this ({permission:?}): ask somebody with a stronger role")]
    Forbidden {
        /// Who asked.
        actor: String,
        /// What was missing.
        permission: Permission,
    },
    /// No such thing.
    #[error("there is no {what} `{name}`{hint}")]
    NotFound {
        /// `node`, `token`, `record`…
        what: &'static str,
        /// As asked for.
        name: String,
        /// A near miss or the command that lists them; empty or beginning with `: ` or `; `.
        hint: String,
    },
    /// The request contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A node changes the mesh again and again.
    #[error("this node made too many changes: the next one is taken in {wait} s")]
    TooOften {
        /// Seconds until the next change is taken.
        wait: u64,
    },
    /// A policy text that does not pass.
    #[error("the policy was not accepted: {}", .0.first().map_or("", String::as_str))]
    Policy(Vec<String>),
    /// The database failed; nothing was changed.
    #[error("the database failed, nothing was changed")]
    Store(#[from] StoreError),
}

/// Why a machine was not let in. Every text is shown to the person at that machine.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// A machine that is not a member came without a token.
    #[error(
        "this machine is not a member and brought no join token: make one with `meshd-coordinator token create`"
    )]
    TokenRequired,
    /// A secret that was never given out here.
    #[error(
        "the join token is not known here: it may belong to another mesh, or the coordinator was set up anew"
    )]
    TokenUnknown,
    /// Too late.
    #[error("the join token expired at {}: make a new one with `meshd-coordinator token create`", crate::clock::show(*.0))]
    TokenExpired(UnixSeconds),
    /// Every use is taken.
    #[error(
        "the join token was used as often as it allows: make a new one with `meshd-coordinator token create`"
    )]
    TokenUsedUp,
    /// An admin took it back.
    #[error("the join token was revoked by an admin: ask for a new one")]
    TokenRevoked,
    /// One node key belongs to one node.
    #[error("this node key already belongs to `{0}`: delete the node's state directory and join again")]
    NodeKeyTaken(String),
    /// The same machine key from another machine.
    #[error(
        "the keys of `{0}` came from a machine with another machine-id: is this disk a clone? On the copy run \
         `sudo meshd down --logout` and join again with a token. If the machine-id of \
         `{0}` itself changed, run `meshd-coordinator nodes remove {0}` and join it again"
    )]
    ClonedMachine(String),
    /// An admin cut it off.
    #[error(
        "`{0}` was revoked by an admin: it can come back after `meshd-coordinator nodes remove {0}` with a new token"
    )]
    Revoked(String),
    /// The node key ended and no token came with the request.
    #[error("the key of `{0}` has expired: join again with a token")]
    KeyExpired(String),
    /// The token would make another node of it than the one that an admin let in.
    #[error(
        "the key of `{name}` has expired and this token is for other machines: renew it with one made by \
         `meshd-coordinator token create {options}`, or run `meshd-coordinator nodes remove {name}` and join anew"
    )]
    TokenUnfit {
        /// The node.
        name: String,
        /// What makes the fitting token.
        options: String,
    },
    /// What it advertises cannot be.
    #[error("cannot advertise {prefix}: {reason}")]
    BadRoute {
        /// The prefix.
        prefix: Prefix,
        /// Why not.
        reason: &'static str,
    },
    /// More than one node may advertise.
    #[error("{0} routes are too many: a node advertises at most {max}", max = meshd_proto::limits::MAX_ADVERTISED_ROUTES)]
    TooManyRoutes(usize),
    /// The mesh prefix is full.
    #[error("no mesh address is left in {0}: remove unused nodes")]
    AddressesExhausted(ipnet::Ipv4Net),
    /// The node changes what it offers again and again.
    #[error("this node changed its name or routes too often: the next change is taken in {wait} s")]
    TooOften {
        /// Seconds until the next change is taken.
        wait: u64,
    },
    /// The database failed; nothing was changed.
    #[error("the coordinator's database failed: try again later")]
    Store(#[from] StoreError),
}
