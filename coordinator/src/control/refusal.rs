//! What a machine that is not let in is told.

use crate::service::RegisterError;
use meshd_proto::control::{Refusal, RefusalCode};

/// For a node that waits for an admin.
pub(super) fn pending() -> Refusal {
    Refusal {
        code: RefusalCode::ApprovalPending,
        message: "this machine waits for an admin".to_owned(),
        hint: "approve it with `meshd-coordinator nodes approve NAME`; it comes in by itself then".to_owned(),
    }
}

/// For a node whose key ended.
pub(super) fn expired() -> Refusal {
    Refusal {
        code: RefusalCode::KeyExpired,
        message: "the key of this node has expired".to_owned(),
        hint: "join again with a token: `meshd up mesh_…`".to_owned(),
    }
}

/// When the coordinator is behind with its work.
pub(super) fn busy() -> Refusal {
    Refusal {
        code: RefusalCode::TryLater,
        message: "the coordinator is busy".to_owned(),
        hint: "the node tries again by itself".to_owned(),
    }
}

/// For a node that speaks another protocol.
pub(super) fn protocol(theirs: u32, ours: u32) -> Refusal {
    let hint = if theirs > ours { "update the coordinator" } else { "update meshd on this machine" };
    Refusal {
        code: RefusalCode::ProtocolVersion,
        message: format!("this node speaks version {theirs} of the control protocol, the coordinator {ours}"),
        hint: hint.to_owned(),
    }
}

/// For a failed registration. The text of the error says what happened and mostly what to do.
pub(super) fn of(error: &RegisterError) -> Refusal {
    let new_token = "make a token on the coordinator with `meshd-coordinator token create`";
    let (code, hint) = match error {
        RegisterError::TokenRequired => (RefusalCode::TokenNeeded, new_token),
        RegisterError::TokenUnknown | RegisterError::TokenRevoked => (RefusalCode::TokenUnknown, new_token),
        RegisterError::TokenExpired(_) => (RefusalCode::TokenExpired, new_token),
        RegisterError::TokenUsedUp => (RefusalCode::TokenUsedUp, new_token),
        RegisterError::NodeKeyTaken(_) => (RefusalCode::KeyInUse, "give this machine keys of its own"),
        RegisterError::ClonedMachine(_) => (RefusalCode::ClonedMachine, "give the copy keys of its own"),
        RegisterError::Revoked(_) => (RefusalCode::Removed, "ask the admin of the mesh"),
        RegisterError::KeyExpired(_) => (RefusalCode::KeyExpired, new_token),
        RegisterError::TokenUnfit { .. } => (RefusalCode::KeyExpired, "ask the admin of the mesh"),
        RegisterError::BadRoute { .. } | RegisterError::TooManyRoutes(_) => {
            (RefusalCode::BadRequest, "change --advertise-routes")
        }
        RegisterError::AddressesExhausted(_) => (RefusalCode::TryLater, "remove nodes that are not used"),
        RegisterError::TooOften { .. } | RegisterError::Store(_) => {
            (RefusalCode::TryLater, "the node tries again by itself")
        }
    };
    Refusal { code, message: error.to_string(), hint: hint.to_owned() }
}
