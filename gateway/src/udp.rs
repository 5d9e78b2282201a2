//! UDP: a session for each client, with a socket of its own towards an endpoint.
//!
//! Sessions are bounded in number, in total and by source, and end when idle. A full queue drops datagrams,
//! as networks do. An answer goes to the client alone whose session it came in.

use crate::clock;
use crate::dial::Datagrams;
use crate::limit::{Counts, Permit};
use crate::runtime::Shared;
use crate::table::{BindKey, Endpoint};
use crate::wire::proxy_v2;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

/// Largest datagram.
const MAX: usize = 65_535;
/// Sessions end at the latest so long after the last datagram; UDP knows no other end.
const MAX_IDLE: Duration = Duration::from_secs(60);

struct Session {
    backend: Box<dyn Datagrams>,
    endpoint: Arc<Endpoint>,
    moved: AtomicU64,
    /// In front of every datagram to a backend that asks for it.
    header: Vec<u8>,
    stop: CancellationToken,
    _permit: Permit,
}

type Sessions = Arc<Mutex<HashMap<SocketAddr, Arc<Session>>>>;

/// Serves `socket` until `stop`.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    key: BindKey,
    socket: Arc<UdpSocket>,
    stop: CancellationToken,
) {
    let sessions = Sessions::default();
    let counts = Arc::new(Counts::default());
    let mut buffer = vec![0; MAX];
    loop {
        let (length, client) = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error of an earlier answer; the socket goes on.
                    tracing::trace!(%error, "UDP receive");
                    continue;
                }
            },
        };
        let known = sessions.lock().unwrap_or_else(PoisonError::into_inner).get(&client).cloned();
        let session = match known {
            Some(session) => session,
            None => match open(&shared, key, &counts, client, &socket, stop.child_token()).await {
                Some(session) => {
                    sessions
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(client, Arc::clone(&session));
                    let answers = answers(
                        Arc::clone(&shared),
                        key,
                        Arc::clone(&session),
                        Arc::clone(&socket),
                        client,
                        Arc::clone(&sessions),
                    );
                    shared.tasks.spawn(answers);
                    session
                }
                None => continue,
            },
        };
        session.moved.fetch_add(1, Relaxed);
        let sent = if session.header.is_empty() {
            session.backend.send(&buffer[..length])
        } else {
            session.backend.send(&[&session.header, &buffer[..length]].concat())
        };
        if sent.is_err() {
            session.endpoint.wellness.failed(clock::now(), true);
            session.stop.cancel();
        }
    }
}

async fn open(
    shared: &Arc<Shared>,
    key: BindKey,
    counts: &Arc<Counts>,
    client: SocketAddr,
    socket: &UdpSocket,
    stop: CancellationToken,
) -> Option<Arc<Session>> {
    let active = shared.active.load_full();
    let bind = active.table.binds.get(&key)?;
    let mut permit = counts.admit(bind.limits.connections)?;
    if !permit.claim(client.ip(), bind.limits.per_source) {
        shared.stats.over_limit.fetch_add(1, Relaxed);
        return None;
    }
    let Some(route) = bind.listeners.first().and_then(|l| l.stream(None)) else {
        shared.stats.unrouted.fetch_add(1, Relaxed);
        return None;
    };
    let backend = route.targets.pick()?;
    let endpoint = backend.pick(client.ip(), &[], clock::now())?;
    let datagrams =
        shared.dialers.of(endpoint.addr).ok()?.datagrams(endpoint.addr.socket_addr()).await.ok()?;
    let header = match (backend.config.send_proxy, socket.local_addr()) {
        (true, Ok(local)) => proxy_v2::encode(client, local, true),
        _ => Vec::new(),
    };
    route.stats.answered(0, Duration::ZERO);
    shared.stats.open.fetch_add(1, Relaxed);
    Some(Arc::new(Session {
        backend: datagrams,
        endpoint,
        moved: AtomicU64::new(0),
        header,
        stop,
        _permit: permit,
    }))
}

/// Carries answers back until the session is idle.
async fn answers(
    shared: Arc<Shared>,
    key: BindKey,
    session: Arc<Session>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    sessions: Sessions,
) {
    let idle = shared
        .active
        .load()
        .table
        .binds
        .get(&key)
        .map_or(MAX_IDLE, |bind| bind.limits.idle_timeout.min(MAX_IDLE));
    let mut buffer = vec![0; MAX];
    let mut seen = 0;
    loop {
        let received = tokio::select! {
            () = session.stop.cancelled() => break,
            received = tokio::time::timeout(idle, receive(&*session.backend, &mut buffer)) => received,
        };
        match received {
            Ok(Ok(length)) => {
                session.moved.fetch_add(1, Relaxed);
                session.endpoint.wellness.succeeded();
                if socket.send_to(&buffer[..length], client).await.is_err() {
                    break;
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(endpoint = %session.endpoint.addr, %error, "UDP session ended");
                session.endpoint.wellness.failed(clock::now(), true);
                break;
            }
            Err(_) => {
                let now = session.moved.load(Relaxed);
                if now == seen {
                    break;
                }
                seen = now;
            }
        }
    }
    shared.stats.open.fetch_sub(1, Relaxed);
    sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
}

async fn receive(datagrams: &dyn Datagrams, buffer: &mut [u8]) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    std::future::poll_fn(|cx| datagrams.poll_recv(cx, &mut buffer)).await?;
    Ok(buffer.filled().len())
}
