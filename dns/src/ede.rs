//! Extended DNS errors (RFC 8914): the word beside a code that says why.

use hickory_proto::rr::rdata::opt::EdnsOption;

/// The option's code.
const OPTION: u16 = 15;
/// Largest UDP reply of our own, said in the OPT records we write.
const PAYLOAD: [u8; 2] = crate::query::MAX_UDP_REPLY.to_be_bytes();

/// Why an answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ede {
    /// The upstreams are silent; this is what they said before (RFC 8767).
    StaleAnswer,
    /// The upstreams failed a moment ago and are not asked again yet (RFC 9520).
    CachedError,
    /// An outside name was answered with an address inside the mesh.
    Rebinding,
    /// No resolver is known to ask.
    NoUpstream,
    /// None of the resolvers answered.
    UpstreamsSilent,
    /// The question has come back to us.
    Loop,
    /// The name's domain is asked to go to us, so that browsers keep asking us (canary domain).
    Canary,
}

impl Ede {
    /// INFO-CODE and EXTRA-TEXT.
    pub const fn parts(self) -> (u16, &'static str) {
        match self {
            Self::StaleAnswer => (3, "the upstream resolvers are silent"),
            Self::CachedError => (13, "the upstream resolvers failed a moment ago"),
            Self::Rebinding => (15, "an outside name leads to an address inside the mesh"),
            Self::Canary => (17, "this network answers names of its own"),
            Self::NoUpstream => (22, "no upstream resolver is known"),
            Self::UpstreamsSilent => (22, "no upstream resolver answered"),
            Self::Loop => (0, "this question came from the resolver it was sent to"),
        }
    }

    /// As an option for hickory's writer.
    pub fn option(self) -> EdnsOption {
        EdnsOption::Unknown(OPTION, self.data())
    }

    fn data(self) -> Vec<u8> {
        let (code, text) = self.parts();
        let mut data = code.to_be_bytes().to_vec();
        data.extend_from_slice(text.as_bytes());
        data
    }
}

/// Appends an OPT record to a reply that has none.
pub fn append_opt(reply: &mut Vec<u8>, dnssec_ok: bool, why: Option<Ede>) {
    let Some(count) = reply.get(10..12).map(|b| u16::from_be_bytes([b[0], b[1]])) else { return };
    reply[10..12].copy_from_slice(&count.saturating_add(1).to_be_bytes());
    let data = why.map(Ede::data).unwrap_or_default();
    let option = if data.is_empty() { 0 } else { data.len() + 4 };
    let flags = if dnssec_ok { 0x80 } else { 0 };
    let [high, low] = u16::try_from(option).unwrap_or(0).to_be_bytes();
    reply.extend_from_slice(&[0, 0, 41, PAYLOAD[0], PAYLOAD[1], 0, 0, flags, 0, high, low]);
    if let Ok(len) = u16::try_from(data.len())
        && len > 0
    {
        reply.extend_from_slice(&OPTION.to_be_bytes());
        reply.extend_from_slice(&len.to_be_bytes());
        reply.extend_from_slice(&data);
    }
}
