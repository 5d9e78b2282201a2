//! Whole-mesh simulation in virtual time
