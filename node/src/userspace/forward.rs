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
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Flows of datagrams at once.
const MAX_FLOWS: usize = 512;
/// Datagrams that wait for one flow's socket.
const FLOW_QUEUE: usize = 64;

/// What was not forwarded.
#[derive(Debug, Default)]
pub struct ForwardCounters {
    /// Datagrams over the limit of flows, or faster than their socket takes them.
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
    let mut flows: HashMap<Flow, mpsc::Sender<Vec<u8>>> = HashMap::new();
    loop {
        tokio::select! {
            what = beyond.recv() => match what {
                Some(Beyond::Tcp { tuple, syn }) => {
                    // As many as the stack has connections: it bounds them.
                    connections.spawn(tcp::forward(stack.clone(), tuple, syn));
                }
                Some(Beyond::Udp { tuple, payload }) => {
                    let flow = Flow::Udp(tuple);
                    send(&mut flows, flow, payload, &sink, |rx| {
                        sockets.spawn(flows::udp(tuple, rx, sink.clone(), flow));
                    });
                }
                Some(Beyond::Echo { local, remote, id, message }) => {
                    let flow = Flow::Echo { local, remote, id };
                    send(&mut flows, flow, message, &sink, |rx| {
                        sockets.spawn(flows::echo(local, remote, id, rx, sink.clone(), flow));
                    });
                }
                None => return,
            },
            Some(_) = connections.join_next() => {}
            Some(ended) = sockets.join_next() => {
                if let Ok(flow) = ended
                    && flows.get(&flow).is_some_and(mpsc::Sender::is_closed)
                {
                    flows.remove(&flow);
                }
            }
        }
    }
}

/// Gives a datagram to its flow, which `open` makes where there is none.
fn send(
    flows: &mut HashMap<Flow, mpsc::Sender<Vec<u8>>>,
    flow: Flow,
    payload: Vec<u8>,
    sink: &Sink,
    open: impl FnOnce(mpsc::Receiver<Vec<u8>>),
) {
    let full = || sink.counters.flows_full.fetch_add(1, Ordering::Relaxed);
    if let Some(queue) = flows.get(&flow).filter(|queue| !queue.is_closed()) {
        if queue.try_send(payload).is_err() {
            full();
        }
        return;
    }
    if flows.len() >= MAX_FLOWS {
        full();
        return;
    }
    let (tx, rx) = mpsc::channel(FLOW_QUEUE);
    // An empty queue takes one.
    let _ = tx.try_send(payload);
    flows.insert(flow, tx);
    open(rx);
}
