//! WebSocket (RFC 6455) as a byte stream: data goes out as binary messages, and the payloads of binary
//! messages come in, however they are cut into frames. Some proxies pass only this.
//!
//! Payloads are streamed, never gathered, so a peer's frame lengths cost no memory. A text message, reserved
//! bits, a frame that is masked where it must not be (or the other way round) end the stream. Pings are
//! answered, the closing handshake is done once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const BINARY: u8 = 0x2;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// Most bytes of data in one frame of ours.
const CHUNK: usize = 16 * 1024;
/// Longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;
/// Answers to pings that wait to be written; a flood of pings is not answered beyond that.
const MAX_PENDING: usize = 64 * 1024;

/// Which side of the connection we are: a client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We opened it.
    Client,
    /// We were asked.
    Server,
}

/// A byte stream inside WebSocket frames.
#[derive(Debug)]
pub struct WebSocket<S> {
    io: S,
    role: Role,
    /// Received, not yet looked at.
    input: Vec<u8>,
    start: usize,
    /// The data frame under way: bytes that are still to come, mask, and how far in it.
    left: u64,
    mask: [u8; 4],
    at: usize,
    /// Framed, not yet written.
    output: Vec<u8>,
    closing: bool,
    ended: bool,
}

enum Step {
    Data,
    More,
    End,
}

impl<S> WebSocket<S> {
    /// Wraps a connection whose upgrade is done; `early` came behind the other side's head.
    pub const fn new(io: S, role: Role, early: Vec<u8>) -> Self {
        Self {
            io,
            role,
            input: early,
            start: 0,
            left: 0,
            mask: [0; 4],
            at: 0,
            output: Vec::new(),
            closing: false,
            ended: false,
        }
    }

    fn put(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let masked = if self.role == Role::Client { MASKED } else { 0 };
        self.output.push(FINAL | opcode);
        match payload.len() {
            len @ 0..=125 => self.output.push(masked | len as u8),
            len @ 126..=0xffff => {
                self.output.push(masked | 126);
                self.output.extend_from_slice(&(len as u16).to_be_bytes());
            }
            len => {
                self.output.push(masked | 127);
                self.output.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        if self.role == Role::Server {
            self.output.extend_from_slice(payload);
            return Ok(());
        }
        // Unpredictable for each frame (RFC 6455 §5.3): nobody can write another protocol's bytes through us.
        let mut mask = [0; 4];
        getrandom::fill(&mut mask).map_err(|e| io::Error::other(e.to_string()))?;
        self.output.extend_from_slice(&mask);
        self.output.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        Ok(())
    }

    /// Looks at the next frame's head, and at a whole control frame.
    fn step(&mut self) -> io::Result<Step> {
        let bad = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let input = &self.input[self.start..];
        let [first, second, rest @ ..] = input else { return Ok(Step::More) };
        let (opcode, masked) = (first & 0x0f, second & MASKED != 0);
        if first & 0x70 != 0 {
            return bad("a WebSocket frame uses an extension that nobody agreed to");
        }
        if masked != (self.role == Role::Server) {
            return bad("a WebSocket frame is masked the wrong way");
        }
        let (len, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
                None => return Ok(Step::More),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((len, rest)) => (u64::from_be_bytes(*len), rest),
                None => return Ok(Step::More),
            },
            len => (u64::from(len), rest),
        };
        let (mask, rest) = match (masked, rest.split_first_chunk::<4>()) {
            (false, _) => ([0; 4], rest),
            (true, Some((mask, rest))) => (*mask, rest),
            (true, None) => return Ok(Step::More),
        };
        let head = input.len() - rest.len();
        match opcode {
            BINARY | CONTINUATION => {
                (self.left, self.mask, self.at) = (len, mask, 0);
                self.start += head;
                Ok(Step::Data)
            }
            CLOSE | PING | PONG => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if len > MAX_CONTROL || first & FINAL == 0 {
                    return bad("a WebSocket control frame is too long");
                }
                let Some(payload) = rest.get(..len) else { return Ok(Step::More) };
                let payload: Vec<u8> =
                    payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
                self.start += head + len;
                self.control(opcode, &payload)
            }
            _ => bad("a WebSocket message is not binary"),
        }
    }

    fn control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<Step> {
        if opcode == PING && self.output.len() < MAX_PENDING {
            self.put(PONG, payload)?;
        }
        if opcode == CLOSE {
            if !std::mem::replace(&mut self.closing, true) {
                self.put(CLOSE, payload.get(..2).unwrap_or_default())?;
            }
            self.ended = true;
            return Ok(Step::End);
        }
        Ok(Step::Data)
    }

    /// Hands out what there is of the data frame under way.
    fn take(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let available = self.input.len() - self.start;
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(available).min(out.remaining());
        let taken = &mut self.input[self.start..self.start + n];
        for (i, byte) in taken.iter_mut().enumerate() {
            *byte ^= self.mask[(self.at + i) % 4];
        }
        out.put_slice(taken);
        self.start += n;
        self.left -= n as u64;
        self.at = (self.at + n) % 4;
        n > 0
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start > 0 {
            self.input.drain(..self.start);
            self.start = 0;
        }
        let mut room = [0; CHUNK];
        let mut buffer = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                // The answer to a goodbye goes out if it can.
                let _ = this.poll_drain(cx);
                return Poll::Ready(Ok(()));
            }
            if this.left > 0 && this.take(out) {
                return Poll::Ready(Ok(()));
            }
            let step = if this.left > 0 { Step::More } else { this.step()? };
            if !this.output.is_empty() {
                // A side that only reads is not told that it cannot write.
                if this.poll_drain(cx).is_ready() {
                    let _ = Pin::new(&mut this.io).poll_flush(cx);
                }
            }
            match step {
                Step::Data | Step::End => {}
                Step::More => {
                    if ready!(this.poll_fill(cx))? == 0 {
                        this.ended = true;
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = data.len().min(CHUNK);
        this.put(BINARY, &data[..n])?;
        // What does not go now goes before the next.
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.closing, true) {
            // 1000: normal closure.
            this.put(CLOSE, &1000u16.to_be_bytes())?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
