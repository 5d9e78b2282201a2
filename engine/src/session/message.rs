//! The kinds of datagram, told apart by their first bytes.

/// What a datagram is, judged by its first four bytes and its length only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// WireGuard handshake initiation (paper §5.4.2).
    Initiation,
    /// WireGuard handshake response (§5.4.3).
    Response,
    /// WireGuard cookie reply (§5.4.7).
    Cookie,
    /// WireGuard transport data (§5.4.6).
    Data,
    /// Everything else: our probes, STUN, noise.
    Other,
}

impl MessageKind {
    /// Classifies a datagram.
    pub fn of(datagram: &[u8]) -> Self {
        let Some(first) = datagram.first_chunk::<4>() else { return Self::Other };
        match (u32::from_le_bytes(*first), datagram.len()) {
            (1, 148) => Self::Initiation,
            (2, 92) => Self::Response,
            (3, 64) => Self::Cookie,
            (4, 32..) => Self::Data,
            _ => Self::Other,
        }
    }
}

/// The receiver index of a response, cookie reply or data message.
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    let at = match MessageKind::of(datagram) {
        MessageKind::Response => 8,
        MessageKind::Cookie | MessageKind::Data => 4,
        MessageKind::Initiation | MessageKind::Other => return None,
    };
    datagram.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}
