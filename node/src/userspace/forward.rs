//! Subnet router and exit without privileges: flows from the mesh to hosts behind this node end in the
//! stack and go on in sockets of the host.
//!
//! A connection is answered only after the host behind has answered: refused there is refused here. The
//! host behind sees this machine's address, as with masquerading. What may come here the engine has
//! decided: approved prefixes, and for an exit public unicast only.

mod flows;
mod tcp;

use super::netstack::Netstack;
use super::stack::{Beyond, Tuple};
use flows::Sink;
use meshd_proto::addr::is_public_unicast;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Flows of datagrams at once; the one that is silent for longest makes room.
const MAX_FLOWS: usize = 2048;
/// Of one peer.
const MAX_FLOWS_OF_PEER: usize = MAX_FLOWS / 4;
/// Datagrams that wait for one flow's socket.
const FLOW_QUEUE: usize = 64;

/// What was not forwarded.
#[derive(Debug, Default)]
pub struct ForwardCounters {
    /// Flows that made room for others, and datagrams faster than their socket takes them.
    pub flows_full: AtomicU64,
    /// Echo requests where the host allows no unprivileged ping sockets.
    pub no_ping: AtomicU64,
    /// Datagrams from hosts behind this node that are longer than the mesh carries in one packet.
    pub too_long: AtomicU64,
}

impl ForwardCounters {
    /// All with their names.
    pub fn all(&self) -> [(&'static str, u64); 3] {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("forward_flows_full", get(&self.flows_full)),
            ("forward_no_ping", get(&self.no_ping)),
            ("forward_too_long", get(&self.too_long)),
        ]
    }
}

/// A flow of datagrams, by the ends that the mesh sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flow {
    Udp(Tuple),
    Echo { local: IpAddr, remote: IpAddr, id: u16 },
}

impl Flow {
    const fn peer(&self) -> IpAddr {
        match self {
            Self::Udp(tuple) => tuple.remote.ip(),
            Self::Echo { remote, .. } => *remote,
        }
    }
}

/// The queues of the flows, and when each was last used.
#[derive(Default)]
struct Flows {
    queues: HashMap<Flow, (mpsc::Sender<Vec<u8>>, u64)>,
    /// Counts datagrams: the order of use.
    used: u64,
}

impl Flows {
    /// Gives a datagram to its flow, which `open` makes where there is none.
    fn send(
        &mut self,
        flow: Flow,
        payload: Vec<u8>,
        counters: &ForwardCounters,
        open: impl FnOnce(mpsc::Receiver<Vec<u8>>),
    ) {
        let full = || counters.flows_full.fetch_add(1, Ordering::Relaxed);
        self.used += 1;
        if let Some((queue, last)) = self.queues.get_mut(&flow).filter(|(queue, _)| !queue.is_closed()) {
            *last = self.used;
            if queue.try_send(payload).is_err() {
                full();
            }
            return;
        }
        let of_peer = self.queues.keys().filter(|f| f.peer() == flow.peer()).count();
        if of_peer >= MAX_FLOWS_OF_PEER || self.queues.len() >= MAX_FLOWS {
            let among = |f: &Flow| of_peer < MAX_FLOWS_OF_PEER || f.peer() == flow.peer();
            let oldest = self.queues.iter().filter(|(f, _)| among(f)).min_by_key(|(_, (_, last))| *last);
            if let Some(oldest) = oldest.map(|(f, _)| *f) {
                // Its task ends when nothing can come any more.
                self.queues.remove(&oldest);
                full();
            }
        }
        let (tx, rx) = mpsc::channel(FLOW_QUEUE);
        // An empty queue takes one.
        let _ = tx.try_send(payload);
        self.queues.insert(flow, (tx, self.used));
        open(rx);
    }

    /// The task of `flow` has ended; another one may have begun since.
    fn ended(&mut self, flow: Flow) {
        if self.queues.get(&flow).is_some_and(|(queue, _)| queue.is_closed()) {
            self.queues.remove(&flow);
        }
    }
}

/// Whether `to` is a public address of this very host. Who may use an exit may reach the internet, not what
/// this host serves to itself: its own firewall never sees what comes from a socket of its own.
fn is_this_host_outside(to: SocketAddr) -> bool {
    if !is_public_unicast(to.ip()) {
        return false;
    }
    // The kernel reaches its own addresses from themselves. Connecting sends nothing.
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = std::net::UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == to.ip())
}

/// The running forwarder. It ends, with all its flows, when this is dropped.
#[derive(Debug)]
pub struct Forwarder {
    _task: JoinSet<()>,
    counters: Arc<ForwardCounters>,
}

impl Forwarder {
    /// Forwards what comes out of `stack`; packets into the mesh are at most `mtu` bytes long.
    pub fn start(stack: &Netstack, mtu: u16) -> Self {
        let counters = Arc::new(ForwardCounters::default());
        let sink = Sink { stack: stack.clone(), mtu: mtu.into(), counters: Arc::clone(&counters) };
        let mut task = JoinSet::new();
        task.spawn(run(stack.clone(), stack.beyond(), sink));
        Self { _task: task, counters }
    }

    /// What was not forwarded.
    pub fn counters(&self) -> &ForwardCounters {
        &self.counters
    }
}

async fn run(stack: Netstack, mut beyond: mpsc::Receiver<Beyond>, sink: Sink) {
    let mut connections = JoinSet::new();
    let mut sockets = JoinSet::new();
    let mut flows = Flows::default();
    loop {
        tokio::select! {
            what = beyond.recv() => match what {
                Some(Beyond::Tcp { tuple, syn }) => {
                    // As many as the stack has connections: it bounds them.
                    connections.spawn(tcp::forward(stack.clone(), tuple, syn));
                }
                Some(Beyond::Udp { tuple, payload }) => {
                    let flow = Flow::Udp(tuple);
                    flows.send(flow, payload, &sink.counters, |rx| {
                        sockets.spawn(flows::udp(tuple, rx, sink.clone(), flow));
                    });
                }
                Some(Beyond::Echo { local, remote, id, message }) => {
                    let flow = Flow::Echo { local, remote, id };
                    flows.send(flow, message, &sink.counters, |rx| {
                        sockets.spawn(flows::echo(local, remote, id, rx, sink.clone(), flow));
                    });
                }
                None => return,
            },
            Some(_) = connections.join_next() => {}
            Some(ended) = sockets.join_next() => {
                if let Ok(flow) = ended {
                    flows.ended(flow);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(peer: u8, port: u16) -> Flow {
        Flow::Udp(Tuple {
            local: (Ipv4Addr::new(192, 0, 2, 1), 53).into(),
            remote: (Ipv4Addr::new(100, 64, 0, peer), port).into(),
        })
    }

    #[test]
    fn the_flow_that_is_silent_for_longest_makes_room_and_no_peer_takes_all() {
        let (mut flows, counters) = (Flows::default(), ForwardCounters::default());
        let mut open = Vec::new();
        let mut send = |flows: &mut Flows, flow| {
            flows.send(flow, vec![1], &counters, |rx| open.push(rx));
        };
        send(&mut flows, flow(1, 1));
        for port in 1..=4000 {
            send(&mut flows, flow(2, port));
        }
        assert_eq!(flows.queues.len(), MAX_FLOWS_OF_PEER + 1, "one peer has its part");
        assert!(flows.queues.contains_key(&flow(1, 1)), "and pushes nobody else out");
        assert!(flows.queues.contains_key(&flow(2, 4000)) && !flows.queues.contains_key(&flow(2, 1)));
        for peer in 3..=9 {
            for port in 1..=400 {
                send(&mut flows, flow(1, 1));
                send(&mut flows, flow(peer, port));
            }
        }
        assert_eq!(flows.queues.len(), MAX_FLOWS);
        assert!(flows.queues.contains_key(&flow(1, 1)), "in use");
        assert!(!flows.queues.contains_key(&flow(2, 4000)), "silent for longest");
    }

    #[test]
    fn an_exit_is_no_way_to_its_own_host() {
        // Loopback and private addresses are for the routes that an admin approved to decide.
        assert!(!is_this_host_outside(([127, 0, 0, 1], 80).into()));
        assert!(!is_this_host_outside(([192, 168, 1, 1], 80).into()));
        assert!(!is_this_host_outside(([9, 9, 9, 9], 53).into()), "somebody else's");
    }
}
