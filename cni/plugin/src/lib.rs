//! CNI plugin: pod addresses and routes on a node
