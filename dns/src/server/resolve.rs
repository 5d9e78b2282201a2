//! What all listeners share: views, upstreams, counters, and the way from a question to its reply.

use super::Audience;
use super::source::Source;
use crate::answer::Answer;
use crate::forward::wire;
use crate::forward::{Forwarder, Transport, Upstream, random_id};
use crate::query::{ClientQuery, MAX_UDP_REPLY};
use crate::view::{Decision, Route, View};
use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, Record};
use meshd_proto::NetworkMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the listeners answer from.
#[derive(Debug, Default)]
pub struct Names {
    view: ArcSwap<View>,
    guest: ArcSwap<View>,
    upstreams: ArcSwap<Vec<Upstream>>,
    listening: ArcSwap<Vec<SocketAddr>>,
    forwarder: Forwarder,
    counters: Counters,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered here.
    pub answered: AtomicU64,
    /// Sent on and answered.
    pub forwarded: AtomicU64,
    /// Sent on, and no upstream answered.
    pub failed: AtomicU64,
    /// Not questions.
    pub malformed: AtomicU64,
    /// Refused because too many were under way.
    pub overloaded: AtomicU64,
}

/// A reply before it is put on a wire.
pub(super) enum Outcome {
    /// Ours.
    Own(Answer),
    /// An upstream's, with the client's id.
    Raw(Vec<u8>),
}

impl Names {
    /// Answers from this map from now on.
    pub fn set_map(&self, map: &NetworkMap) {
        self.view.store(Arc::new(View::from_map(map)));
        self.guest.store(Arc::new(View::guest(map)));
    }

    /// The view of the node itself.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The resolvers the host used before us, most preferred first. May change at any time.
    pub fn set_upstreams(&self, upstreams: Vec<Upstream>) {
        self.upstreams.store(Arc::new(upstreams));
    }

    /// See [`Self::set_upstreams`].
    pub fn upstreams(&self) -> Arc<Vec<Upstream>> {
        self.upstreams.load_full()
    }

    /// What happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Adds listeners, which are never asked as upstreams from then on.
    pub(super) fn listening_on(&self, addrs: &[SocketAddr]) {
        self.listening.rcu(|known| {
            let mut known = Vec::clone(known);
            known.extend(addrs);
            known.sort_unstable();
            known.dedup();
            known
        });
    }

    /// The view for a source, of which `kind` knows who it is; `None`: no reply.
    pub(super) fn view_for(
        &self,
        audience: &Audience,
        source: IpAddr,
        kind: impl FnOnce(IpAddr) -> Source,
    ) -> Option<Arc<View>> {
        let guests = match audience {
            Audience::Node { guests } => match kind(source) {
                Source::Own => return Some(self.view.load_full()),
                Source::Container => return Some(self.guest.load_full()),
                Source::Stranger => guests,
            },
            Audience::Guests(guests) => guests,
        };
        guests.iter().any(|net| net.contains(&source)).then(|| self.guest.load_full())
    }

    /// Follows what [`View::decide`] decided, as far as it leads away from here.
    pub(super) async fn carry_out(
        &self,
        decision: Decision,
        query: &ClientQuery,
        packet: &[u8],
        transport: Transport,
    ) -> Outcome {
        let result = match decision {
            Decision::Answer(answer) => {
                count(&self.counters.answered);
                return Outcome::Own(answer);
            }
            Decision::Forward(route) => {
                let upstreams = self.upstreams_of(&route);
                let reply = self.forwarder.ask(&upstreams, packet, query.question_end, transport).await;
                reply.map(Outcome::Raw)
            }
            Decision::Chase { records, target, route } => {
                self.chase(records, &target, &route, query).await.map(Outcome::Own)
            }
        };
        match result {
            Ok(outcome) => {
                count(&self.counters.forwarded);
                outcome
            }
            Err(error) => {
                count(&self.counters.failed);
                tracing::debug!(%error, "question not answered");
                Outcome::Own(Answer::code(ResponseCode::ServFail))
            }
        }
    }

    /// Asks for the name that an alias of ours leads to, so that the client gets the whole chain: a
    /// stub resolver does not follow aliases itself.
    async fn chase(
        &self,
        records: Vec<Record>,
        target: &LowerName,
        route: &Route,
        query: &ClientQuery,
    ) -> Result<Answer, crate::forward::ForwardError> {
        let upstreams = self.upstreams_of(route);
        let mut question = Message::new(random_id()?, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from(target), query.kind()));
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_REPLY);
        question.set_edns(edns);
        let failed = Answer { records: records.clone(), ..Answer::code(ResponseCode::ServFail) };
        let Ok(packet) = question.to_vec() else { return Ok(failed) };
        let Ok(parsed) = ClientQuery::parse(&packet) else { return Ok(failed) };
        let ask = |transport| self.forwarder.ask(&upstreams, &packet, parsed.question_end, transport);
        let mut reply = ask(Transport::Udp).await?;
        if wire::is_truncated(&reply) {
            reply = ask(Transport::Tcp).await?;
        }
        let Ok(message) = Message::from_vec(&reply) else { return Ok(failed) };
        let mut all = records;
        all.extend(message.answers);
        Ok(Answer {
            code: message.metadata.response_code,
            authoritative: false,
            records: all,
            authority: message.authorities,
        })
    }

    /// The resolvers of a route, without our own listeners: asking those would go round in circles.
    fn upstreams_of(&self, route: &Route) -> Vec<Upstream> {
        let listening = self.listening.load();
        let ours = |addr: &SocketAddr| listening.contains(addr);
        match route {
            Route::Host => self.upstreams.load().iter().filter(|u| !ours(&u.addr)).copied().collect(),
            Route::Mesh(addrs) => {
                addrs.iter().filter(|a| !ours(a)).map(|addr| Upstream { addr: *addr, mark: None }).collect()
            }
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
