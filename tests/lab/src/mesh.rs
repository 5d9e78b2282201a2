//! Placeholder until the programs exist.
