//! What a relay did, as numbers.

use meshd_proto::relay::RefuseReason;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a datagram went nowhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason as a metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// The source is not attached.
    NotAttached = "not_attached",
    /// The destination is not attached.
    PeerGone = "peer_gone",
    /// The sender is over its rate.
    RateLimited = "rate_limited",
    /// The payload is neither a WireGuard message nor a probe, or goes to its sender.
    NotCiphertext = "not_ciphertext",
    /// The outgoing socket would have blocked.
    Congested = "congested",
    /// The system would not send it.
    SendFailed = "send_failed",
    /// Not a frame that a node sends.
    BadFrame = "bad_frame",
    /// Not a STUN request that can be answered.
    BadStun = "bad_stun",
    /// The source is no address that can be answered, such as port 0: the system would refuse the send,
    /// and may take segmentation offload from the socket for it.
    BadSource = "bad_source",
    /// Not a relay frame and not STUN.
    NotForRelay = "not_for_relay",
    /// The answer would have been longer than its request, or too many were waiting.
    AnswerTooLong = "answer_too_long",
}

/// Totals since the start; `clients` is the number now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attached now.
    pub clients: u64,
    /// Attaches accepted, renewals included.
    pub attaches: u64,
    /// Attaches refused.
    pub refused: u64,
    /// Datagrams forwarded.
    pub forwarded_packets: u64,
    /// Bytes forwarded, without relay headers.
    pub forwarded_bytes: u64,
    /// STUN requests answered.
    pub stun_answers: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// Datagrams dropped for `reason`.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    pub(super) const fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(super) const fn drop_many(&mut self, reason: DropReason, datagrams: u64) {
        self.drops[reason as usize] += datagrams;
    }

    pub(super) fn refuse(&mut self, reason: RefuseReason) {
        self.refused += 1;
        tracing::debug!(%reason, "attach refused");
    }
}
