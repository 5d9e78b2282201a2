//! Many questions by one system call, and their replies by another: `recvmmsg` and `sendmmsg`.
//!
//! The only module of this crate with `unsafe`: neither the standard library nor rustix has these calls.
//! Nothing here decides anything. A reply goes to where its question came from, by the very address that the
//! kernel wrote. Memory is fixed: [`MESSAGES`] questions and as many replies.
#![expect(unsafe_code, reason = "recvmmsg and sendmmsg have no safe wrapper")]

use crate::query::MAX_QUERY;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

/// Questions that one call takes.
pub(super) const MESSAGES: usize = 64;
/// One byte more than is read, so that a longer datagram is seen to be longer.
const ROOM: usize = MAX_QUERY + 1;

/// Questions, and who asks.
pub(super) struct Inbox {
    slab: Box<[u8]>,
    names: Box<[libc::sockaddr_storage; MESSAGES]>,
    lens: [usize; MESSAGES],
    count: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid value (family AF_UNSPEC).
        let nobody: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            slab: vec![0; ROOM * MESSAGES].into_boxed_slice(),
            names: Box::new([nobody; MESSAGES]),
            lens: [0; MESSAGES],
            count: 0,
        }
    }
}

impl Inbox {
    /// Forgets what was received.
    pub(super) const fn clear(&mut self) {
        self.count = 0;
    }

    /// Receives what is there, up to [`MESSAGES`], without waiting.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` when nothing is there.
    pub(super) fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<()> {
        self.clear();
        // SAFETY: iovec, mmsghdr and msghdr are plain data for which zeros are valid.
        let (mut vectors, mut headers) =
            unsafe { (mem::zeroed::<[libc::iovec; MESSAGES]>(), mem::zeroed::<[libc::mmsghdr; MESSAGES]>()) };
        let rooms = self.slab.chunks_exact_mut(ROOM).zip(self.names.iter_mut());
        for ((vector, header), (room, name)) in vectors.iter_mut().zip(&mut headers).zip(rooms) {
            *vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut *vector;
            header.msg_iovlen = 1;
        }
        // SAFETY: every header points to an iovec, a name and a room that outlive the call and are not
        // aliased: each was made from a distinct `&mut` above.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                MESSAGES as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (len, header) in self.lens.iter_mut().zip(&headers).take(self.count) {
            *len = (header.msg_len as usize).min(ROOM);
        }
        Ok(())
    }

    /// How many questions the last call received.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// A question and who asks; `None` when that is no IP address.
    pub(super) fn question(&self, place: usize) -> Option<(SocketAddr, &[u8])> {
        let from = address_of(self.names.get(place)?)?;
        let start = place * ROOM;
        Some((from, &self.slab[start..start + self.lens[place]]))
    }
}

/// Replies to the questions of an [`Inbox`].
pub(super) struct Outbox {
    replies: Vec<Vec<u8>>,
    /// The places of the questions that they answer.
    to: Vec<usize>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { replies: vec![Vec::new(); MESSAGES], to: Vec::with_capacity(MESSAGES) }
    }
}

impl Outbox {
    /// Room for the next reply, which counts once [`Self::answers`] is called.
    pub(super) fn next(&mut self) -> &mut Vec<u8> {
        let place = self.to.len().min(MESSAGES - 1);
        &mut self.replies[place]
    }

    /// What was written into [`Self::next`] answers the question at `place`.
    pub(super) fn answers(&mut self, place: usize) {
        if self.to.len() < MESSAGES {
            self.to.push(place);
        }
    }

    /// Sends all replies, if the socket takes them now: a client that gets nothing asks again.
    pub(super) fn send(&mut self, socket: &impl AsRawFd, inbox: &Inbox) {
        // SAFETY: iovec, mmsghdr and msghdr are plain data for which zeros are valid.
        let (mut vectors, mut headers) =
            unsafe { (mem::zeroed::<[libc::iovec; MESSAGES]>(), mem::zeroed::<[libc::mmsghdr; MESSAGES]>()) };
        let replies = self.replies.iter().zip(&self.to);
        for ((vector, header), (reply, to)) in vectors.iter_mut().zip(&mut headers).zip(replies) {
            *vector = libc::iovec { iov_base: reply.as_ptr().cast_mut().cast(), iov_len: reply.len() };
            let name = &inbox.names[*to];
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw const *name).cast_mut().cast();
            header.msg_namelen = length_of(name);
            header.msg_iov = &raw mut *vector;
            header.msg_iovlen = 1;
        }
        let mut rest = &mut headers[..self.to.len()];
        while !rest.is_empty() {
            // SAFETY: the headers of `rest` point to iovecs, replies and names that outlive the call,
            // which only reads them.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            let done = match usize::try_from(sent) {
                Ok(sent) => sent.max(1),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    tracing::trace!(%error, "reply not sent");
                    if error.kind() == io::ErrorKind::WouldBlock {
                        break;
                    }
                    // One client cannot be reached: the next ones may be.
                    1
                }
            };
            let more = done.min(rest.len());
            rest = &mut rest[more..];
        }
        self.to.clear();
    }
}

/// The address that the kernel wrote beside a datagram; `None` for one that is not of IP.
pub fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: a sockaddr_storage is large enough and aligned for every address, and the family says
    // which one the kernel has written.
    unsafe {
        match i32::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Bytes of an address that the kernel has written.
fn length_of(name: &libc::sockaddr_storage) -> libc::socklen_t {
    let len = match i32::from(name.ss_family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        _ => size_of::<libc::sockaddr_in6>(),
    };
    len as libc::socklen_t
}

#[cfg(test)]
mod tests;
