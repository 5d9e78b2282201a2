//! What the Kubernetes tests share: nodes whose pods get their network from `meshd-cni`.
//!
//! Everything happens in network namespaces that a [`meshd_lab::Lab`] makes; nothing has a way outside.

mod cni;

pub use cni::{Answer, CniNode};
