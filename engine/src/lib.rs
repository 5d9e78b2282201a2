//! The mesh as a state machine without I/O
