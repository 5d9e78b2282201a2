//! DNS for those who use this node as their exit: their questions go on to the host's own resolvers, as
//! they came. Names of the mesh are not answered here: the clients have theirs.

use super::netstack::Netstack;
use super::udp::UdpSocket;
use meshd_dns::ClientQuery;
use meshd_dns::forward::{Forwarder, TOTAL, Transport, Upstream};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::task::JoinSet;

const PORT: u16 = 53;
/// Questions under way.
const MAX_QUESTIONS: usize = 256;
const MAX_RESOLVERS: usize = 3;

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct ExitDns {
    _task: JoinSet<()>,
}

impl ExitDns {
    /// Answers on port 53 of the node's own addresses.
    pub(super) fn start(stack: &Netstack) -> io::Result<Self> {
        let mut task = JoinSet::new();
        task.spawn(serve(Arc::new(stack.udp_bind(PORT)?)));
        Ok(Self { _task: task })
    }
}

async fn serve(socket: Arc<UdpSocket>) {
    let forwarder = Arc::new(Forwarder::default());
    let mut questions = JoinSet::new();
    let mut room = vec![0; meshd_dns::query::MAX_QUERY];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut room) => {
                let Ok((len, from)) = received else { return };
                // Like a full queue: the client asks again.
                if questions.len() < MAX_QUESTIONS {
                    let (socket, forwarder) = (Arc::clone(&socket), Arc::clone(&forwarder));
                    questions.spawn(question(socket, forwarder, room[..len].to_vec(), from));
                }
            }
            Some(_) = questions.join_next() => {}
        }
    }
}

async fn question(socket: Arc<UdpSocket>, forwarder: Arc<Forwarder>, packet: Vec<u8>, from: SocketAddr) {
    // What is no question gets no answer.
    let Ok(query) = ClientQuery::parse(&packet) else { return };
    match forwarder.ask(&resolvers(), &packet, query.question_end, Transport::Udp, TOTAL).await {
        Ok(reply) => drop(socket.send_to(&reply, from).await),
        Err(error) => tracing::debug!(%error, "a question of an exit's client was not answered"),
    }
}

/// The host's resolvers now: they change with the network it is in.
fn resolvers() -> Vec<Upstream> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    nameservers(&text).map(|ip| Upstream { addr: SocketAddr::new(ip, PORT), mark: None }).collect()
}

fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> {
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    words.filter_map(|rest| rest.trim().parse().ok()).take(MAX_RESOLVERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_system_reads_them() {
        let text =
            "# nameserver 9.9.9.9\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nsearch x\nnameserver x\n";
        let found: Vec<String> = nameservers(text).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"]);
    }
}
