//! The mesh VPN node: command line and daemon
