//! Clients that come by a byte stream: each is one more address behind one more socket of the core.

use super::{Ports, RelayControl};
use crate::clock;
use crate::forwarder::{DropReason, Local, RelayServer};
use crate::stream::{FrameQueue, pump};
use meshd_proto::Endpoint;
use meshd_proto::relay::Frame;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Frames of all streams that wait for the relay; a stream that finds it full waits, and its sender with it.
pub(super) const QUEUE: usize = 1024;
/// The core's number of this "socket"; sockets proper count from 0.
pub(super) const SOCKET: u8 = u8::MAX;
/// A stream whose node has not attached by then is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most streams at once.
const MAX_STREAMS: usize = 10_000;

/// Tells two streams of the same address apart, when a port is used again.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
pub(super) enum StreamInput {
    Opened { from: Endpoint, id: u64, queue: FrameQueue },
    Frame { from: Endpoint, frame: Vec<u8> },
    Closed { from: Endpoint, id: u64 },
}

/// The streams there are, by their far ends.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<Endpoint, (u64, FrameQueue)>);

impl Streams {
    pub(super) fn send(&self, server: &mut RelayServer, to: Endpoint, frame: &[u8]) {
        match self.0.get(&to) {
            Some((_, queue)) => match queue.push(frame, clock::now()) {
                0 => {}
                dropped => server.note_unsent(DropReason::Congested, dropped),
            },
            None => server.note_unsent(DropReason::SendFailed, 1),
        }
    }
}

const HERE: Local = Local { socket: SOCKET, ip: None };

pub(super) fn handle(server: &mut RelayServer, ports: &mut Ports, input: StreamInput) {
    match input {
        StreamInput::Opened { from, id, queue } => {
            let streams = &mut ports.streams.0;
            if streams.len() >= MAX_STREAMS {
                queue.close();
            } else if let Some((_, older)) = streams.insert(from, (id, queue)) {
                older.close();
                server.source_gone(HERE, from);
            }
        }
        StreamInput::Frame { from, mut frame } => {
            let (wall, now) = (clock::wall(), clock::now());
            if let Some(to) = server.handle_datagram(HERE, from, &mut frame, wall, now) {
                let len = frame.len();
                super::send_run(server, ports, to, &frame, len, None);
            }
            super::send_answers(server, ports);
        }
        StreamInput::Closed { from, id } => {
            if ports.streams.0.get(&from).is_some_and(|(known, _)| *known == id) {
                ports.streams.0.remove(&from);
                server.source_gone(HERE, from);
            }
        }
    }
}

impl RelayControl {
    /// Serves one stream that asked for the relay, until it ends. `stranger` is dropped once the node behind
    /// it is attached; a node that does not attach is hung up on.
    pub async fn serve_stream<S, G>(&self, io: S, peer: SocketAddr, stranger: G)
    where
        S: AsyncRead + AsyncWrite,
    {
        let from = Endpoint::canonical(peer);
        let (id, queue) = (NEXT_ID.fetch_add(1, Ordering::Relaxed), FrameQueue::default());
        if self.streams.send(StreamInput::Opened { from, id, queue: queue.clone() }).await.is_err() {
            return;
        }
        let mut stranger = Some(stranger);
        let attached = |frame: &[u8]| {
            let attached = matches!(Frame::parse(frame), Ok(Frame::Attached { .. }));
            if attached {
                stranger = None;
            }
            attached
        };
        let wrap = |frame| StreamInput::Frame { from, frame };
        let ended = pump(io, &queue, &self.streams, wrap, attached, PATIENCE).await;
        tracing::debug!(%peer, ?ended, "a relay stream ended");
        queue.close();
        // The relay may have stopped; then it has forgotten everybody.
        let _ = self.streams.send(StreamInput::Closed { from, id }).await;
    }
}
