//! Asks other resolvers, raw: what the client wrote goes on under a new id from a new port, and what
//! comes back is handed over as it is, once it is proved to answer that question.
//!
//! It never caches, never reads records and never follows an alias. Hedged races, a cache and stale
//! answers belong between [`Forwarder::ask`] and `exchange`.
//!
//! Invariants: every wait is bounded ([`TOTAL`] stays below the 5 s after which glibc gives up); a reply
//! counts only from the address asked, with the id sent and the question asked, letter case included.

pub(crate) mod exchange;
pub mod wire;

use exchange::{Failure, over_tcp, over_udp};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wire::Reply;

/// How long one upstream may take by UDP before the next is asked. A cold recursive lookup is rarely
/// slower, and one that is has its answer ready when it is asked again.
pub const ATTEMPT: Duration = Duration::from_millis(1200);
/// How long a question may take in all.
pub const TOTAL: Duration = Duration::from_millis(4500);
/// Most upstreams in a list that are ever asked; resolv.conf knows three.
pub const MAX_UPSTREAMS: usize = 4;

/// A resolver to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where.
    pub addr: SocketAddr,
    /// `SO_MARK` of the socket, so that our own routes let the question leave beside the mesh; `None`
    /// for resolvers that are reached through the mesh. Setting one needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
}

/// How a question came and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With retries.
    Udp,
    /// One connection for each question.
    Tcp,
}

/// No upstream gave a usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The list is empty.
    #[error("there is no upstream resolver")]
    NoUpstream,
    /// All failed.
    #[error("none of {asked} upstream resolvers answered")]
    AllFailed {
        /// How many were asked.
        asked: usize,
    },
    /// The operating system gave no random bytes.
    #[error("no entropy for a query id")]
    Entropy,
}

/// Asks upstreams and remembers which one answered.
#[derive(Debug, Default)]
pub struct Forwarder {
    preferred: AtomicUsize,
}

impl Forwarder {
    /// Sends `packet`, whose question section ends at `question_end`, to `upstreams` in turn, the one
    /// that answered last first. The reply has the client's id again. What an upstream refuses or
    /// fails at is asked of the next; if nobody does better, that reply is the answer.
    ///
    /// # Errors
    /// When nobody answered.
    pub async fn ask(
        &self,
        upstreams: &[Upstream],
        packet: &[u8],
        question_end: usize,
        transport: Transport,
    ) -> Result<Vec<u8>, ForwardError> {
        let upstreams = &upstreams[..upstreams.len().min(MAX_UPSTREAMS)];
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let mut fallback = None;
        let asked = self.rounds(upstreams, packet, question_end, transport, &mut fallback);
        let result = match tokio::time::timeout(TOTAL, asked).await {
            Ok(result) => result?,
            Err(_) => None,
        };
        let mut reply = result.or(fallback).ok_or(ForwardError::AllFailed { asked: upstreams.len() })?;
        wire::set_id(&mut reply, wire::id(packet));
        Ok(reply)
    }

    async fn rounds(
        &self,
        upstreams: &[Upstream],
        packet: &[u8],
        question_end: usize,
        transport: Transport,
        fallback: &mut Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, ForwardError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let attempts = match transport {
            Transport::Udp => (2 * upstreams.len()).clamp(3, 6),
            Transport::Tcp => upstreams.len(),
        };
        for attempt in 0..attempts {
            let index = (first + attempt) % upstreams.len();
            let upstream = upstreams[index];
            let mut question = packet.to_vec();
            wire::set_id(&mut question, random_id()?);
            let outcome = match transport {
                Transport::Udp => match over_udp(upstream, &question, question_end).await {
                    // It changed the letter case: proved to be its own answer only over TCP.
                    Err(Failure::OtherCase) => over_tcp(upstream, &question, question_end).await,
                    other => other,
                },
                Transport::Tcp => over_tcp(upstream, &question, question_end).await,
            };
            match outcome {
                Ok(Reply::Final(reply)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(Some(reply));
                }
                Ok(Reply::Poor(reply)) => *fallback = Some(reply),
                Err(failure) => {
                    tracing::debug!(upstream = %upstream.addr, %failure, "no answer from upstream")
                }
            }
        }
        Ok(None)
    }
}

pub(crate) fn random_id() -> Result<u16, ForwardError> {
    Ok(getrandom::u32().map_err(|_| ForwardError::Entropy)? as u16)
}

#[cfg(test)]
mod tests;
