//! The questions: names of one length, so that a run of them is one call of the generator's.

/// Different names of each kind.
pub(crate) const NAMES: u32 = 1000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// Names that a server knows by itself.
    Mesh,
    /// Names that it has asked its upstream for before.
    Cached,
    /// Names that nobody has asked for before, of a domain whose resolver is silent.
    Unknown,
}

impl Names {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Mesh => "mesh names",
            Self::Cached => "cached",
            Self::Unknown => "unknown names",
        }
    }

    /// The domain, without a dot at its end.
    pub(crate) const fn domain(self) -> &'static str {
        match self {
            Self::Mesh => "home.internal",
            Self::Cached => "up.example",
            Self::Unknown => "silent.example",
        }
    }

    /// The `n`th name.
    pub(crate) fn name(self, n: u32) -> String {
        format!("n{n:07}.{}", self.domain())
    }

    /// Its address. Names from outside may not lead into the mesh: a resolver of ours would not show that.
    pub(crate) fn address(self, n: u32) -> [u8; 4] {
        let net = if self == Self::Mesh { [100, 71] } else { [203, 0] };
        [net[0], net[1], (n / 250 + 1) as u8, (n % 250 + 1) as u8]
    }
}

/// A question for the address of the `n`th name, with EDNS as resolvers ask.
pub(crate) fn question(names: Names, n: u32, id: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in names.name(n).split('.') {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    packet.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    packet
}

/// Whether this is a reply with one address.
pub(crate) fn is_answer(reply: &[u8]) -> bool {
    let Some(head) = reply.get(..8) else { return false };
    head[2] & 0x80 != 0 && head[3] & 0x0f == 0 && head[6..8] == [0, 1]
}
