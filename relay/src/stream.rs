//! Relaying over a byte stream, for networks that pass no UDP: the same frames as in datagrams, each behind
//! its length, over TCP, TLS or WebSocket.
//!
//! - [`websocket`]: RFC 6455 as a byte stream, both sides;
//! - [`upgrade`]: the HTTP/1.1 heads that lead to it, or to the bare protocol;
//! - [`queue`]: frames that wait for a stream, bounded by their age;
//! - [`pump`]: moves frames between a stream, a queue and a channel.
//!
//! The relay's core knows nothing of streams: a stream is one more socket, its far end one more address, and
//! who may attach proves the same things in the same frames. TLS below is for middleboxes; what a frame
//! carries is sealed already.
//!
//! Both halves of a stream are polled by one task: the WebSocket answers pings from its reading half.

pub mod queue;
pub mod upgrade;
pub mod websocket;

pub use queue::FrameQueue;

use crate::clock;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Longest frame on a stream; the largest WireGuard message of ours with a relay's header is shorter.
pub const MAX_FRAME: usize = 4096;
/// A stream on which nothing comes for so long is dead: clients ping every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes gathered for one write: enough for full TLS records, little to wait behind.
const WRITE_BYTES: usize = 16 * 1024;

/// A byte stream, whatever is below it.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// A byte stream of a kind that does not matter any more.
pub type BoxIo = Box<dyn Io>;

/// Why frames cannot be read from a stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame on a relay stream says it has {0} bytes; at most {MAX_FRAME} are allowed")]
pub struct FrameTooLong(usize);

/// Appends `frame` behind its length: two bytes, big-endian.
pub fn put_frame(frame: &[u8], out: &mut Vec<u8>) {
    let Ok(len) = u16::try_from(frame.len()) else { return };
    if frame.len() <= MAX_FRAME {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(frame);
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// When the other side does not keep to the bounds; the stream is of no use then.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameTooLong> {
        let Some((head, rest)) = self.bytes[self.start..].split_first_chunk::<2>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes(*head));
        if len > MAX_FRAME {
            return Err(FrameTooLong(len));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let begin = self.start + 2;
        self.start = begin + len;
        Ok(Some(&self.bytes[begin..begin + len]))
    }
}

/// Moves frames until the stream ends: those of `out` onto it, those from it into `inbound`. `seen` looks at
/// each frame that goes out; while it has not said `true`, the stream lives for `patience` only.
///
/// # Errors
/// What ended the stream; `Ok` when the other side or the receiver of `inbound` ended it.
pub async fn pump<S, T>(
    io: S,
    out: &FrameQueue,
    inbound: &mpsc::Sender<T>,
    wrap: impl Fn(Vec<u8>) -> T,
    mut seen: impl FnMut(&[u8]) -> bool,
    patience: Duration,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut frames = FrameReader::default();
    let mut buffer = vec![0; WRITE_BYTES];
    let mut sending = Vec::with_capacity(WRITE_BYTES + MAX_FRAME);
    let (mut settled, mut unflushed) = (false, false);
    let begin = clock::timer_now();
    let mut heard = begin;
    loop {
        while sending.len() < WRITE_BYTES
            && let Some(frame) = out.pop(clock::now())
        {
            settled |= seen(&frame);
            put_frame(&frame, &mut sending);
        }
        let deadline = if settled { heard + SILENCE } else { (begin + patience).min(heard + SILENCE) };
        tokio::select! {
            moved = push_out(&mut writer, &sending), if unflushed || !sending.is_empty() => {
                let n = moved?;
                if n == 0 && !sending.is_empty() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                unflushed = !sending.is_empty();
                sending.drain(..n);
            },
            open = out.ready(), if sending.is_empty() => if !open { return Ok(()) },
            read = reader.read(&mut buffer) => {
                let n = read?;
                if n == 0 {
                    return Ok(());
                }
                heard = clock::timer_now();
                frames.push(&buffer[..n]);
                while let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
                    if inbound.send(wrap(frame.to_vec())).await.is_err() {
                        return Ok(());
                    }
                }
            },
            () = tokio::time::sleep_until(deadline) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Writes some of `bytes` and says how many, or flushes when there are none. May be dropped at any point.
///
/// # Errors
/// Those of the stream.
pub async fn push_out<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write(bytes).await }
}

#[cfg(test)]
mod tests;
