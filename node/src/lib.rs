//! Every socket, file and syscall of a node

pub mod control;
