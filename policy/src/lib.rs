//! Policy text to compiled filter, and the one verdict.
//!
//! [`verdict()`] is the only evaluator of the product: nodes, `policy explain`, `policy plan` and the
//! tests section of a policy call it. A second, naive one lives in this crate's tests only.
//!
//! This crate never does I/O, never reads a clock and never draws entropy. Every text and every map
//! is taken as hostile: bounded, read once, refused with line and column. What is odd denies.

pub mod verdict;

pub use verdict::{DenyReason, Filter, Flow, Verdict, verdict};
