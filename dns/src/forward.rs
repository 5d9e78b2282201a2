//! Asks other resolvers, raw: what the client wrote goes on under a new id from a new port, and what
//! comes back is handed over as it is, once it is proved to answer that question.
//!
//! Upstreams race, hedged: the next one is asked as well when the one before takes longer than it
//! usually does ([`health`]), and at once when it fails. The first good answer wins, the others are
//! dropped. This module never caches, never reads records and never follows an alias.
//!
//! Invariants: every wait is bounded ([`TOTAL`] stays below the 5 s after which glibc gives up), and so
//! is the number of packets; a reply counts only from the address asked, with the id sent and the
//! question asked, letter case included.

pub(crate) mod exchange;
pub mod health;
pub mod wire;

use crate::clock;
use exchange::{Failure, over_tcp, over_udp};
use health::Health;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use wire::Reply;

/// How long one upstream may take by UDP before the next is asked. A cold recursive lookup is rarely
/// slower, and one that is has its answer ready when it is asked again.
pub const ATTEMPT: Duration = Duration::from_millis(1200);
/// How long a question may take in all.
pub const TOTAL: Duration = Duration::from_millis(4500);
/// How long all upstreams may stay silent before all are asked a second time: a packet was lost.
const SECOND_ROUND: Duration = Duration::from_millis(1000);
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

/// Asks upstreams and remembers how they did.
#[derive(Debug, Default)]
pub struct Forwarder {
    health: Mutex<Health>,
}

/// One question under way to several upstreams.
struct Race<'f> {
    forwarder: &'f Forwarder,
    packet: &'f [u8],
    question_end: usize,
    transport: Transport,
    /// Who was asked and has said nothing yet, in the order of asking.
    pending: Vec<usize>,
    /// By upstream: what became of asking it.
    running: JoinSet<(usize, Duration, Result<Reply, Failure>)>,
    /// What an upstream said that could not answer.
    fallback: Option<Vec<u8>>,
}

impl Forwarder {
    /// Sends `packet`, whose question section ends at `question_end`, to `upstreams`, most preferred
    /// first. The reply has the client's id again. What an upstream refuses or fails at is asked of the
    /// next; if nobody does better, that reply is the answer. `limit` bounds the wait, at most [`TOTAL`].
    ///
    /// # Errors
    /// When nobody answered.
    pub async fn ask(
        &self,
        upstreams: &[Upstream],
        packet: &[u8],
        question_end: usize,
        transport: Transport,
        limit: Duration,
    ) -> Result<Vec<u8>, ForwardError> {
        let upstreams = &upstreams[..upstreams.len().min(MAX_UPSTREAMS)];
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let mut race = Race {
            forwarder: self,
            packet,
            question_end,
            transport,
            pending: Vec::new(),
            running: JoinSet::new(),
            fallback: None,
        };
        let result = match tokio::time::timeout(limit, race.run(upstreams)).await {
            Ok(result) => result?,
            Err(_) => None,
        };
        let asked = upstreams.len();
        let mut reply = result.or(race.fallback).ok_or(ForwardError::AllFailed { asked })?;
        wire::set_id(&mut reply, wire::id(packet));
        Ok(reply)
    }

    /// Whether every one of them was late or failing lately.
    pub fn all_set_back(&self, upstreams: &[Upstream]) -> bool {
        let health = self.health();
        let now = clock::now();
        upstreams.iter().all(|upstream| health.is_set_back(upstream.addr, now))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // What a panic could leave behind is still an order to ask in.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Race<'_> {
    async fn run(&mut self, upstreams: &[Upstream]) -> Result<Option<Vec<u8>>, ForwardError> {
        let addrs: Vec<SocketAddr> = upstreams.iter().map(|u| u.addr).collect();
        let order = self.forwarder.health().order(&addrs, clock::now());
        let rounds = match self.transport {
            Transport::Udp => 2,
            // TCP repeats by itself what is lost.
            Transport::Tcp => 1,
        };
        for round in 0..rounds {
            for (turn, index) in order.iter().enumerate() {
                self.start(*index, upstreams[*index])?;
                let is_last = turn + 1 == order.len();
                let patience = match is_last {
                    true if round + 1 == rounds => TOTAL,
                    true => SECOND_ROUND,
                    false => self.forwarder.health().patience(addrs[*index]),
                };
                if let Some(reply) = self.wait(&addrs, patience).await {
                    return Ok(Some(reply));
                }
            }
            // Every upstream has said that it cannot: asking again would not help.
            if self.running.is_empty() && self.fallback.is_some() {
                break;
            }
        }
        Ok(None)
    }

    fn start(&mut self, index: usize, upstream: Upstream) -> Result<(), ForwardError> {
        let mut question = self.packet.to_vec();
        wire::set_id(&mut question, random_id()?);
        let (question_end, transport) = (self.question_end, self.transport);
        let question: Arc<[u8]> = question.into();
        let started = clock::now();
        self.pending.push(index);
        self.running.spawn(async move {
            let outcome = match transport {
                Transport::Udp => match over_udp(upstream, &question, question_end).await {
                    // It changed the letter case: proved to be its own answer only over TCP.
                    Err(Failure::OtherCase) => over_tcp(upstream, &question, question_end).await,
                    other => other,
                },
                Transport::Tcp => over_tcp(upstream, &question, question_end).await,
            };
            (index, clock::now().saturating_duration_since(started), outcome)
        });
        Ok(())
    }

    /// Waits for a good answer; returns early when nobody is left to wait for.
    async fn wait(&mut self, addrs: &[SocketAddr], patience: Duration) -> Option<Vec<u8>> {
        let patience = tokio::time::sleep(patience);
        tokio::pin!(patience);
        loop {
            let ended = tokio::select! {
                ended = self.running.join_next() => ended?,
                () = &mut patience => return None,
            };
            let Ok((index, took, outcome)) = ended else { continue };
            let first = self.pending.iter().position(|pending| *pending == index);
            let before_it = first.unwrap_or(0);
            if let Some(at) = first.filter(|_| !matches!(outcome, Ok(Reply::Final(_)))) {
                self.pending.remove(at);
            }
            match outcome {
                Ok(Reply::Final(reply)) => {
                    self.won(index, took, before_it, addrs);
                    return Some(reply);
                }
                // Heard, and no use: neither late nor an answer to go by.
                Ok(Reply::Poor(reply)) => self.fallback = Some(reply),
                Err(failure) => {
                    tracing::debug!(upstream = %addrs[index], %failure, "no answer from upstream");
                    self.forwarder.health().missed(addrs[index], clock::now());
                }
            }
            if self.running.is_empty() {
                return None;
            }
        }
    }

    /// Whoever was asked before the winner and has not answered was late.
    fn won(&self, winner: usize, took: Duration, before_it: usize, addrs: &[SocketAddr]) {
        let now = clock::now();
        let mut health = self.forwarder.health();
        health.answered(addrs[winner], took);
        for late in &self.pending[..before_it] {
            health.missed(addrs[*late], now);
        }
    }
}

pub(crate) fn random_id() -> Result<u16, ForwardError> {
    Ok(getrandom::u32().map_err(|_| ForwardError::Entropy)? as u16)
}

#[cfg(test)]
mod tests;
