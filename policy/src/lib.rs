//! Policy text to compiled filter, and the one verdict.
//!
//! A coordinator reads a text with [`Policy::parse`], joins it with the classes of its nodes in
//! [`Compiled`] and sends each node its rules; a node compiles them with [`Filter::compile`].
//! [`verdict()`] is the only evaluator of the product: nodes, tests of a policy and [`explain`] call
//! it. A second, naive one lives in this crate's tests only.
//!
//! This crate never does I/O, never reads a clock and never draws entropy. Every text and every map
//! is taken as hostile: bounded, read once, refused with line and column. What is odd denies.
//!
//! What the selectors mean, in one place:
//! - `*` as source is every node by its own mesh addresses; as destination it is the whole mesh: every
//!   node, every approved prefix behind a router, and the internet behind an approved exit node;
//! - users, groups, tags and autogroups name nodes, never the hosts behind them;
//! - hosts behind a router are sources and destinations only by address, where a rule names a prefix;
//! - a node with tags belongs to nobody: rules for its owner do not apply to it.

mod access;
mod class;
mod compile;
mod diagnostic;
mod explain;
mod index;
mod json;
mod party;
mod plan;
mod policy;
mod ports;
mod public;
mod read;
mod selector;
mod trial;
pub mod verdict;

pub use access::{AccessTable, Edge, From, Group, MAX_GROUPS, To, access_table, begins_something};
pub use class::ClassKey;
pub use compile::{Compiled, NodeView};
pub use diagnostic::{Diagnostic, Pos, Severity};
pub use explain::{Explanation, Question, explain};
pub use party::Party;
pub use plan::{Difference, Plan, plan, ports_text, strands};
pub use policy::{DEFAULT_POLICY, Expose, Policy};
pub use ports::PortRange;
pub use selector::Selector;
pub use trial::{MeshFacts, NodeFacts, TestFailure};
pub use verdict::{DenyReason, Filter, Flow, Verdict, verdict};
