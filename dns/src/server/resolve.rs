//! What all listeners share: views, upstreams, counters, and the way from a question to its reply.

use super::Audience;
use super::side::{Boarding, GUEST_CACHE, OWN_CACHE, Side};
use super::source::Source;
use crate::answer::{Answer, reject};
use crate::cache::reply::{addresses, has_alias};
use crate::cache::{Looked, Question};
use crate::clock;
use crate::ede::Ede;
use crate::forward::wire;
use crate::forward::{ForwardError, Forwarder, TOTAL, Transport, Upstream, random_id};
use crate::query::{ClientQuery, MAX_UDP_REPLY, QueryError};
use crate::view::{Decision, Nearness, Route, Scope, View};
use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use meshd_proto::netmap::PeerKind;
use meshd_proto::{MeshAddrs, NetworkMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a client waits for upstreams when an old answer is at hand (RFC 8767 §5: 1.8 s).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// How long the nameservers of the mesh may be silent before the host's own are asked instead.
const GLOBAL_TOTAL: Duration = Duration::from_millis(1500);
/// Most aliases of an upstream's reply that are looked at for one that leads back to us.
const MAX_FOREIGN_ALIASES: usize = 16;

/// What the listeners answer from.
#[derive(Debug)]
pub struct Names {
    own: Arc<Side>,
    guest: Arc<Side>,
    /// Plain WireGuard devices that are in the mesh through this node: their only resolver is ours.
    devices: ArcSwap<Vec<MeshAddrs>>,
    upstreams: ArcSwap<Vec<Upstream>>,
    listening: ArcSwap<Vec<SocketAddr>>,
    near: ArcSwap<Nearness>,
    forwarder: Forwarder,
    counters: Counters,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered from our own zones.
    pub answered: AtomicU64,
    /// Answered from the cache.
    pub cached: AtomicU64,
    /// Sent on and answered.
    pub forwarded: AtomicU64,
    /// Sent on, and no upstream answered.
    pub failed: AtomicU64,
    /// Answered by what was true before, because no upstream answered.
    pub stale: AtomicU64,
    /// Outside names that led to an address inside the mesh.
    pub rebinding: AtomicU64,
    /// Not questions.
    pub malformed: AtomicU64,
    /// Refused because too many were under way.
    pub overloaded: AtomicU64,
    /// Not answered, since their sender asks too often.
    pub limited: AtomicU64,
    /// TCP connections closed at once, since too many were open.
    pub crowded: AtomicU64,
}

/// A reply before it is put on a wire.
pub(super) enum Outcome {
    /// Ours.
    Own(Answer),
    /// An upstream's, with the client's id.
    Raw(Vec<u8>),
}

/// A question that is not answered at once.
#[derive(Debug)]
pub(super) struct Open {
    query: ClientQuery,
    /// Its key, if a cache may answer it.
    question: Option<Question>,
    packet: Vec<u8>,
    decision: Decision,
    epoch: u64,
}

/// What came of looking at a packet without asking anybody.
#[derive(Debug)]
pub(super) enum AtOnce {
    /// The reply is written; nothing if none is due.
    Done,
    /// The reply is written, and should be fetched anew.
    Refresh(Box<Open>),
    /// It depends on upstreams.
    Wait(Box<Open>),
}

impl Default for Names {
    fn default() -> Self {
        Self {
            own: Arc::new(Side::new(OWN_CACHE)),
            guest: Arc::new(Side::new(GUEST_CACHE)),
            devices: ArcSwap::default(),
            upstreams: ArcSwap::default(),
            listening: ArcSwap::default(),
            near: ArcSwap::default(),
            forwarder: Forwarder::default(),
            counters: Counters::default(),
        }
    }
}

impl Names {
    /// Answers from this map from now on, as far as `scope` goes.
    pub fn set_map(&self, map: &NetworkMap, scope: Scope) {
        self.own.set_view(View::within(map, scope).nearest_first(self.near.load_full()));
        self.guest.set_view(View::guest(map));
        let devices = map.peers.values().filter(|p| p.kind == PeerKind::PlainWireguard).map(|p| p.addrs);
        self.devices.store(Arc::new(devices.collect()));
    }

    /// Which of several addresses stand first from now on.
    pub fn set_nearness(&self, near: Nearness) {
        if **self.near.load() != near {
            let near = Arc::new(near);
            self.near.store(Arc::clone(&near));
            self.own.set_view(View::clone(&self.own.view()).nearest_first(near));
        }
    }

    /// What this host itself is answered from.
    pub(super) fn own_side(&self) -> &Side {
        &self.own
    }

    /// The view of the node itself.
    pub fn view(&self) -> Arc<View> {
        self.own.view()
    }

    /// The resolvers the host used before us, most preferred first. May change at any time; what the
    /// old ones said is forgotten then, for they may have stood in another network.
    pub fn set_upstreams(&self, upstreams: Vec<Upstream>) {
        if **self.upstreams.load() != upstreams {
            self.upstreams.store(Arc::new(upstreams));
            self.own.forget();
            self.guest.forget();
        }
    }

    /// See [`Self::set_upstreams`].
    pub fn upstreams(&self) -> Arc<Vec<Upstream>> {
        self.upstreams.load_full()
    }

    /// What happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many replies are kept for the node itself, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        self.own.kept()
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

    /// What a source is answered from, of which `kind` knows who it is; `None`: no reply.
    pub(super) fn side_for(
        &self,
        audience: &Audience,
        source: IpAddr,
        kind: impl FnOnce(IpAddr) -> Source,
    ) -> Option<&Arc<Side>> {
        let guests = match audience {
            Audience::Node { guests } => match kind(source) {
                Source::Own => return Some(&self.own),
                Source::Container => return Some(&self.guest),
                // The engine lets only the device itself send from its address, and a LAN host that
                // forges it hears nothing: the reply goes into the mesh.
                Source::Stranger if self.devices.load().iter().any(|d| d.contains(source)) => {
                    return Some(&self.own);
                }
                Source::Stranger => guests,
            },
            Audience::Guests(guests) => guests,
            Audience::Lan(lan) => {
                let side = if lan.sees_mesh { &self.own } else { &self.guest };
                return lan.allow.iter().any(|net| net.contains(&source)).then_some(side);
            }
        };
        guests.iter().any(|net| net.contains(&source)).then_some(&self.guest)
    }

    /// Answers a packet from what is known: zones and cache. The reply, if any, is in `out`, ready for
    /// UDP.
    pub(super) fn at_once(&self, side: &Side, packet: &[u8], out: &mut Vec<u8>, now: Instant) -> AtOnce {
        out.clear();
        let question = Question::read(packet);
        let mut ending = false;
        if let Some(question) = &question {
            match side.look(question, packet, now, out) {
                Looked::Fresh => {
                    count(&self.counters.cached);
                    cut(out, question.question_end, question.udp_limit);
                    return AtOnce::Done;
                }
                Looked::Ending => {
                    count(&self.counters.cached);
                    cut(out, question.question_end, question.udp_limit);
                    ending = true;
                }
                Looked::Failed => {
                    count(&self.counters.failed);
                    if let Ok(query) = ClientQuery::parse(packet) {
                        *out = Answer::failed(Ede::CachedError).to_udp(&query);
                    }
                    return AtOnce::Done;
                }
                Looked::Stale | Looked::Miss => {}
            }
        }
        let query = match ClientQuery::parse(packet) {
            Ok(query) => query,
            Err(error) => {
                count(&self.counters.malformed);
                if let QueryError::Reject { metadata, code } = error {
                    *out = reject(&metadata, code);
                }
                return AtOnce::Done;
            }
        };
        let epoch = side.epoch();
        match side.view().decide(&query.name, query.kind(), query.class()) {
            Decision::Answer(answer) => {
                count(&self.counters.answered);
                *out = answer.to_udp(&query);
                if let Some(question) = question.filter(|_| answer.why.is_none()) {
                    side.keep(epoch, |cache| cache.keep_ours(&question, out));
                }
                AtOnce::Done
            }
            decision => {
                let open = Box::new(Open { query, question, packet: packet.to_vec(), decision, epoch });
                if ending { AtOnce::Refresh(open) } else { AtOnce::Wait(open) }
            }
        }
    }

    /// A reply for a question that [`Self::at_once`] left open, ready for UDP.
    pub(super) async fn in_time(&self, side: &Side, open: Open, asker: Option<IpAddr>) -> Vec<u8> {
        let (query, end) = (open.query.clone(), open.query.question_end);
        match self.carry_out(side, open, asker, Transport::Udp).await {
            Outcome::Own(answer) => answer.to_udp(&query),
            Outcome::Raw(reply) => wire::cut_to(reply, end, query.udp_limit()),
        }
    }

    /// Everything for one packet that came by TCP, not cut to any size.
    pub(super) async fn by_tcp(&self, side: &Side, packet: &[u8], query: ClientQuery) -> Outcome {
        let question = Question::read(packet);
        let mut out = Vec::new();
        if let Some(question) = &question
            && matches!(side.look(question, packet, clock::now(), &mut out), Looked::Fresh | Looked::Ending)
        {
            count(&self.counters.cached);
            return Outcome::Raw(out);
        }
        let epoch = side.epoch();
        match side.view().decide(&query.name, query.kind(), query.class()) {
            Decision::Answer(answer) => {
                count(&self.counters.answered);
                Outcome::Own(answer)
            }
            decision => {
                let open = Open { query, question, packet: packet.to_vec(), decision, epoch };
                self.carry_out(side, open, None, Transport::Tcp).await
            }
        }
    }

    async fn carry_out(&self, side: &Side, open: Open, asker: Option<IpAddr>, by: Transport) -> Outcome {
        let Open { query, question, packet, decision, epoch } = open;
        match decision {
            Decision::Answer(answer) => Outcome::Own(answer),
            Decision::Chase { records, target, route } => {
                match self.chase(side, records, &target, &route, &query).await {
                    Ok(answer) => {
                        count(&self.counters.forwarded);
                        Outcome::Own(answer)
                    }
                    Err(error) => Outcome::Own(self.gave_up(&error)),
                }
            }
            Decision::Forward(route) => {
                let Some(question) = question else {
                    return match self.ask(&route, &packet, query.question_end, by).await {
                        Ok(reply) => self.checked(side, &route, &query, reply),
                        Err(error) => Outcome::Own(self.gave_up(&error)),
                    };
                };
                let asked = Forwarded { names: self, side, query: &query, packet: &packet, question, epoch };
                asked.run(&route, asker, by).await
            }
        }
    }

    /// Asks the upstreams of a route. When those that the mesh names are out of reach, the host's own
    /// are asked: a resolver behind a subnet route that is down must not take all other names with it.
    async fn ask(
        &self,
        route: &Route,
        packet: &[u8],
        question_end: usize,
        by: Transport,
    ) -> Result<Vec<u8>, ForwardError> {
        let upstreams = self.upstreams_of(route);
        if !matches!(route, Route::Global(_)) {
            return self.forwarder.ask(&upstreams, packet, question_end, by, TOTAL).await;
        }
        let own = self.upstreams_of(&Route::Host);
        if own.is_empty() {
            return self.forwarder.ask(&upstreams, packet, question_end, by, TOTAL).await;
        }
        if !self.forwarder.all_set_back(&upstreams) {
            match self.forwarder.ask(&upstreams, packet, question_end, by, GLOBAL_TOTAL).await {
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    tracing::debug!(%error, "the mesh's nameservers are silent: asking the host's own")
                }
            }
        }
        self.forwarder.ask(&own, packet, question_end, by, TOTAL - GLOBAL_TOTAL).await
    }

    fn gave_up(&self, error: &ForwardError) -> Answer {
        count(&self.counters.failed);
        tracing::debug!(%error, "question not answered");
        Answer::failed(match error {
            ForwardError::NoUpstream => Ede::NoUpstream,
            ForwardError::AllFailed { .. } | ForwardError::Entropy => Ede::UpstreamsSilent,
        })
    }

    /// An upstream's reply as the client gets it: never with an address inside the mesh under a name
    /// from outside it, and to the end of its aliases where those lead back to us.
    fn checked(&self, side: &Side, route: &Route, query: &ClientQuery, reply: Vec<u8>) -> Outcome {
        let view = side.view();
        let end = query.question_end;
        let guarded = !matches!(route, Route::Split(_));
        // What cannot be read to its end may hold anything; a truncated one makes the client ask by TCP.
        let inside = || match addresses(&reply, end) {
            Some(found) => found.into_iter().any(|ip| view.is_inside(ip)),
            None => !wire::is_truncated(&reply),
        };
        if guarded && inside() {
            return Outcome::Own(self.rebinding(query));
        }
        count(&self.counters.forwarded);
        if has_alias(&reply, end)
            && let Some(answer) = ends_with_us(&view, query, &reply)
        {
            return Outcome::Own(answer);
        }
        Outcome::Raw(reply)
    }

    fn rebinding(&self, query: &ClientQuery) -> Answer {
        count(&self.counters.rebinding);
        tracing::warn!(name = %query.name, "an outside name leads to an address inside the mesh: not answered");
        Answer { why: Some(Ede::Rebinding), ..Answer::code(ResponseCode::NoError) }
    }

    /// Asks for the name that an alias of ours leads to, so that the client gets the whole chain: a
    /// stub resolver does not follow aliases itself.
    async fn chase(
        &self,
        side: &Side,
        records: Vec<Record>,
        target: &LowerName,
        route: &Route,
        query: &ClientQuery,
    ) -> Result<Answer, ForwardError> {
        let mut question = Message::new(random_id()?, MessageType::Query, OpCode::Query);
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(Name::from(target), query.kind()));
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_REPLY);
        question.set_edns(edns);
        let failed = Answer { records: records.clone(), ..Answer::code(ResponseCode::ServFail) };
        let Ok(packet) = question.to_vec() else { return Ok(failed) };
        let Ok(parsed) = ClientQuery::parse(&packet) else { return Ok(failed) };
        let mut reply = self.ask(route, &packet, parsed.question_end, Transport::Udp).await?;
        if wire::is_truncated(&reply) {
            reply = self.ask(route, &packet, parsed.question_end, Transport::Tcp).await?;
        }
        let Ok(message) = Message::from_vec(&reply) else { return Ok(failed) };
        let view = side.view();
        let inside = || {
            let end = parsed.question_end;
            addresses(&reply, end).is_none_or(|found| found.into_iter().any(|ip| view.is_inside(ip)))
        };
        if !matches!(route, Route::Split(_)) && inside() {
            return Ok(self.rebinding(query));
        }
        let mut all = records;
        all.extend(message.answers);
        Ok(Answer {
            code: message.metadata.response_code,
            authoritative: false,
            records: all,
            authority: message.authorities,
            why: None,
        })
    }

    /// The resolvers of a route, without our own listeners: asking those would go round in circles.
    fn upstreams_of(&self, route: &Route) -> Vec<Upstream> {
        let listening = self.listening.load();
        let ours = |addr: &SocketAddr| listening.contains(addr);
        match route {
            Route::Host => self.upstreams.load().iter().filter(|u| !ours(&u.addr)).copied().collect(),
            Route::Global(addrs) | Route::Split(addrs) => {
                addrs.iter().filter(|a| !ours(a)).map(|addr| Upstream { addr: *addr, mark: None }).collect()
            }
        }
    }
}

/// A question on its way to upstreams, with a cache behind it.
struct Forwarded<'n> {
    names: &'n Names,
    side: &'n Side,
    query: &'n ClientQuery,
    packet: &'n [u8],
    question: Question,
    epoch: u64,
}

impl Forwarded<'_> {
    async fn run(self, route: &Route, asker: Option<IpAddr>, by: Transport) -> Outcome {
        let to: Vec<SocketAddr> = self.names.upstreams_of(route).iter().map(|u| u.addr).collect();
        let seat = match self.side.board(&self.question, asker, &to) {
            Boarding::Ask(seat) => Some(seat),
            Boarding::Loop => {
                count(&self.names.counters.failed);
                return Outcome::Own(Answer::failed(Ede::Loop));
            }
            Boarding::Wait(mut landed) => {
                // Ends with an error when the one who asked is done: that is the signal.
                let _ = landed.changed().await;
                let mut out = Vec::new();
                match self.side.look(&self.question, self.packet, clock::now(), &mut out) {
                    Looked::Fresh | Looked::Ending => return Outcome::Raw(out),
                    Looked::Failed => return Outcome::Own(Answer::failed(Ede::CachedError)),
                    // It was not kept: each asks for itself.
                    Looked::Stale | Looked::Miss => None,
                }
            }
        };
        let asked = self.names.ask(route, self.packet, self.query.question_end, by);
        tokio::pin!(asked);
        let reply = match tokio::time::timeout(STALE_AFTER, &mut asked).await {
            Ok(reply) => reply,
            Err(_) => match self.stale() {
                Some(stale) => return Outcome::Raw(stale),
                None => asked.await,
            },
        };
        let outcome = self.landed(route, reply);
        drop(seat);
        outcome
    }

    fn landed(&self, route: &Route, reply: Result<Vec<u8>, ForwardError>) -> Outcome {
        match reply {
            Ok(reply) => {
                if wire::is_poor(&reply)
                    && let Some(stale) = self.stale()
                {
                    return Outcome::Raw(stale);
                }
                let outcome = self.names.checked(self.side, route, self.query, reply);
                if let Outcome::Raw(reply) = &outcome {
                    self.side.keep(self.epoch, |cache| cache.keep(&self.question, reply, clock::now()));
                }
                outcome
            }
            Err(error) => {
                self.side.keep(self.epoch, |cache| cache.keep_failure(&self.question, clock::now()));
                match self.stale() {
                    Some(stale) => Outcome::Raw(stale),
                    None => Outcome::Own(self.names.gave_up(&error)),
                }
            }
        }
    }

    fn stale(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let written = self.side.write_stale(&self.question, self.packet, clock::now(), &mut out);
        written.then(|| {
            count(&self.names.counters.stale);
            out
        })
    }
}

/// The whole answer where the aliases of an upstream's reply lead to a name of ours, which the upstream
/// cannot know.
fn ends_with_us(view: &View, query: &ClientQuery, reply: &[u8]) -> Option<Answer> {
    if matches!(query.kind(), RecordType::CNAME | RecordType::ANY) {
        return None;
    }
    let message = Message::from_vec(reply).ok()?;
    let mut at = query.name.clone();
    let mut records: Vec<Record> = Vec::new();
    for _ in 0..MAX_FOREIGN_ALIASES {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(to) if LowerName::from(&record.name) == at => Some((record, LowerName::from(&to.0))),
            _ => None,
        });
        let Some((record, target)) = alias else { break };
        records.push(record.clone());
        at = target;
    }
    match view.decide(&at, query.kind(), query.class()) {
        Decision::Answer(ours) => {
            records.extend(ours.records);
            Some(Answer { records, authoritative: false, ..ours })
        }
        Decision::Forward(_) | Decision::Chase { .. } => None,
    }
}

fn cut(reply: &mut Vec<u8>, question_end: usize, limit: usize) {
    if reply.len() > limit {
        *reply = wire::cut_to(std::mem::take(reply), question_end, limit);
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
