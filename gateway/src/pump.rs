//! Bytes of one stream into another and back, until both are at their end.
//!
//! Each direction ends by itself (half-close): an end of reading becomes an end of writing on the other
//! side. An idle connection holds no buffer: bytes are read into one of the thread, and only what the other
//! side does not take at once is kept, at most [`CHUNK`] bytes a direction.

use crate::clock;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes read at once, and kept of one direction.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Chunks copied before other connections get their turn.
const TURN: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Bytes from the first to the second stream, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) up: u64,
    /// To the client.
    pub(crate) down: u64,
}

/// One direction.
#[derive(Default)]
struct Way {
    kept: Vec<u8>,
    sent: usize,
    ended: bool,
    closed: bool,
    unflushed: bool,
    bytes: u64,
}

/// Copies both ways until both ended, an error, or `idle` without a byte.
///
/// # Errors
/// What broke; `TimedOut` when it was idle. What was carried until then comes with it.
pub(crate) async fn pump<A, B>(a: &mut A, b: &mut B, idle: Duration) -> (Carried, io::Result<()>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut timer = std::pin::pin!(tokio::time::sleep(idle));
    let mut seen = 0;
    let result = poll_fn(|cx| {
        let first = up.carry(cx, a, b)?;
        let second = down.carry(cx, b, a)?;
        if first.is_ready() && second.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if timer.as_mut().poll(cx).is_ready() {
            let now = up.bytes + down.bytes;
            if now == seen {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // Checked once an interval: an idle connection ends after one to two of them.
            seen = now;
            timer.as_mut().reset(tokio::time::Instant::from_std(clock::now()) + idle);
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    (Carried { up: up.bytes, down: down.bytes }, result)
}

impl Way {
    fn carry<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURN {
            while self.sent < self.kept.len() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.sent..]))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += count;
            }
            if !self.kept.is_empty() {
                (self.kept, self.sent) = (Vec::new(), 0);
            }
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).or_else(already_gone)?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            let step = SCRATCH.with_borrow_mut(|scratch| self.step(cx, from, to, scratch))?;
            if step.is_pending() {
                if self.unflushed {
                    self.unflushed = Pin::new(&mut *to).poll_flush(cx)?.is_pending();
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and the write of what it brought.
    fn step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        self.ended = bytes.is_empty();
        self.bytes += bytes.len() as u64;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        self.unflushed = true;
        let written = match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        self.kept.extend_from_slice(&bytes[written..]);
        Poll::Ready(Ok(()))
    }
}

/// The other side may be gone already when its end is told.
fn already_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_nothing_is_lost() {
        let (mut client, mut a) = duplex(100);
        let (mut b, mut server) = duplex(70);
        let copy = async { pump(&mut a, &mut b, Duration::from_secs(20)).await };
        let sent: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        let talk = async {
            let (mut read, mut write) = tokio::io::split(&mut client);
            let up = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let down = async { read.read_to_end(&mut back).await.unwrap() };
            let answer = async {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, sent);
                // The client has closed its half; the answer still arrives.
                server.write_all(b"thank you").await.unwrap();
                server.shutdown().await.unwrap();
            };
            tokio::join!(up, down, answer);
            back
        };
        let ((carried, result), back) = tokio::join!(copy, talk);
        result.unwrap();
        assert_eq!(back, b"thank you");
        assert_eq!(carried, Carried { up: 300_000, down: 9 });
    }

    #[tokio::test]
    async fn an_idle_connection_ends() {
        let (_client, mut a) = duplex(100);
        let (mut b, _server) = duplex(100);
        let (carried, result) = pump(&mut a, &mut b, Duration::from_millis(30)).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(carried, Carried::default());
    }
}
