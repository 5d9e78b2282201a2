//! Asks STUN servers (RFC 8489) how the internet sees this host, once, at a start without `--public` on a
//! host that has private addresses only: behind a 1:1 NAT of a cloud, or behind a router.
//!
//! It never asks when an admin named an address, when the host has a public one, or when the coordinator
//! listens on loopback only. Nothing is told but that somebody asks. A server that lies costs
//! reachability and no more: tokens pin the coordinator's keys.

use crate::entropy;
use meshd_proto::addr::is_public_unicast;
use meshd_proto::stun::{Binding, TransactionId, encode_request};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{UdpSocket, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// For all servers together: a start without an internet waits no longer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// A lost datagram is sent again after this (RFC 8489 §6.2.1 begins with 500 ms; we have less time).
const REPEAT: Duration = Duration::from_millis(300);

/// The public IPv4 address that the first server to answer sees.
pub(super) async fn outside_address(servers: &[String]) -> Option<IpAddr> {
    let mut asking = JoinSet::new();
    for server in servers {
        asking.spawn(ask(server.clone()));
    }
    let first = async {
        while let Some(done) = asking.join_next().await {
            match done {
                Ok(Ok(ip)) if is_public_unicast(ip) => return Some(ip),
                // Another NAT of the provider in between: perhaps the next one knows more.
                Ok(Ok(ip)) => tracing::debug!(%ip, "a STUN server sees no public address"),
                Ok(Err(error)) => tracing::debug!(%error, "no STUN answer"),
                Err(error) => tracing::debug!(%error, "no STUN answer"),
            }
        }
        None
    };
    timeout(PATIENCE, first).await.ok().flatten()
}

async fn ask(server: String) -> io::Result<IpAddr> {
    let known = lookup_host(&server).await?.find(SocketAddr::is_ipv4);
    let address = known.ok_or_else(|| io::Error::other("it has no IPv4 address"))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(address).await?;
    let id = TransactionId(entropy::random());
    let (request, mut answer, mut again) = (encode_request(id), [0; 1280], interval(REPEAT));
    loop {
        tokio::select! {
            _ = again.tick() => { socket.send(&request).await?; }
            got = socket.recv(&mut answer) => {
                if let Ok(Binding::Success { id: of, mapped }) = Binding::parse(&answer[..got?])
                    && of == id
                {
                    return Ok(mapped.0.ip().to_canonical());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::Endpoint;
    use meshd_proto::stun::encode_success;

    /// A server that answers the second time, first to somebody else's question.
    async fn server(tasks: &mut JoinSet<()>, seen: &'static str) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap().to_string();
        let seen = Endpoint(SocketAddr::new(seen.parse().unwrap(), 4321));
        tasks.spawn(async move {
            let mut buffer = [0; 512];
            for n in 0..2 {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                let Ok(Binding::Request { id, .. }) = Binding::parse(&buffer[..len]) else { panic!() };
                let of = if n == 0 { TransactionId([7; 12]) } else { id };
                let wrong = Endpoint(SocketAddr::new([9, 9, 9, 9].into(), 1));
                let says = if n == 0 { wrong } else { seen };
                socket.send_to(&encode_success(of, says), from).await.unwrap();
            }
        });
        at
    }

    #[tokio::test]
    async fn the_first_public_address_that_a_server_sees_counts() {
        let mut tasks = JoinSet::new();
        let carrier = server(&mut tasks, "100.64.3.3").await;
        let outside = server(&mut tasks, "45.66.77.99").await;
        let nobody = "127.0.0.1:1".to_owned();
        let found = outside_address(&[nobody.clone(), carrier.clone(), outside]).await;
        assert_eq!(found, Some("45.66.77.99".parse().unwrap()));
        assert_eq!(outside_address(&[nobody]).await, None);
        assert_eq!(outside_address(&[]).await, None);
    }
}
