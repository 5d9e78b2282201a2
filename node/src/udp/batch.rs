//! Many datagrams by one system call: `recvmmsg` with `UDP_GRO`, `sendmsg` with `UDP_SEGMENT`, `sendmmsg`
//! where the kernel or the path takes no runs, and the ECN bits of their outer headers.
//!
//! The only module of the node with `unsafe`: the standard library and rustix have no control messages
//! of UDP. Nothing here decides anything; [`super`] and the data threads do.
#![expect(unsafe_code, reason = "recvmmsg, sendmsg and their control messages have no safe wrapper")]

use meshd_dns::server::address_of;
use meshd_engine::data::Ecn;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Datagrams, or runs of them, that one call takes.
pub const MESSAGES: usize = 64;
/// Bytes of an inbox.
const SLAB: usize = 512 << 10;
/// Room for a run that GRO made.
const RUN_ROOM: usize = 64 << 10;
/// Room for one datagram without GRO.
const SINGLE_ROOM: usize = 2048;

/// Room for three control messages of an `int`, aligned as `cmsghdr` wants it.
#[repr(align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 96]);

/// What was received: one datagram, or a run of equal ones from one sender.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes in all.
    pub len: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub segment: usize,
    /// The sender.
    pub from: SocketAddr,
    /// The mark of the outer headers.
    pub ecn: Ecn,
}

/// Buffers to receive into. They are reused by every call.
pub struct Inbox {
    slab: Box<[u8]>,
    room: usize,
    names: Box<[libc::sockaddr_storage; MESSAGES]>,
    controls: Box<[Control; MESSAGES]>,
    received: Vec<Received>,
}

impl Inbox {
    /// An empty one; `gro`: the sockets give runs.
    pub fn new(gro: bool) -> Self {
        // SAFETY: a sockaddr_storage of zeros is a valid value (family AF_UNSPEC).
        let nobody: libc::sockaddr_storage = unsafe { mem::zeroed() };
        Self {
            slab: vec![0; SLAB].into_boxed_slice(),
            room: if gro { RUN_ROOM } else { SINGLE_ROOM },
            names: Box::new([nobody; MESSAGES]),
            controls: Box::new([Control([0; 96]); MESSAGES]),
            received: Vec::with_capacity(MESSAGES),
        }
    }

    /// How many messages one call takes.
    pub fn capacity(&self) -> usize {
        (self.slab.len() / self.room).min(MESSAGES)
    }

    /// Receives what is there, without waiting. How many messages there were; one that was cut or whose
    /// sender is no IP address stands for none, with length 0.
    ///
    /// # Errors
    /// What the kernel says, but `WouldBlock`.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.received.clear();
        let count = self.capacity();
        // SAFETY: iovec, mmsghdr and msghdr are plain data for which zeros are valid.
        let (mut vectors, mut headers) =
            unsafe { (mem::zeroed::<[libc::iovec; MESSAGES]>(), mem::zeroed::<[libc::mmsghdr; MESSAGES]>()) };
        let rooms = self.slab.chunks_exact_mut(self.room);
        let places = self.names.iter_mut().zip(self.controls.iter_mut());
        for (((vector, header), room), (name, control)) in
            vectors.iter_mut().zip(&mut headers).zip(rooms).zip(places)
        {
            vector.iov_base = room.as_mut_ptr().cast();
            vector.iov_len = room.len();
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut *name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut *vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
        }
        // SAFETY: the first `count` headers point to iovecs, names, controls and rooms that outlive the
        // call and are not aliased: each was made from a distinct `&mut` above.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let got = match usize::try_from(got) {
            Ok(got) => got,
            Err(_) => {
                let error = io::Error::last_os_error();
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
            }
        };
        for (header, name) in headers.iter().zip(self.names.iter()).take(got) {
            let message = &header.msg_hdr;
            let cut = message.msg_flags & libc::MSG_TRUNC != 0;
            let len = if cut { 0 } else { header.msg_len as usize };
            // SAFETY: the kernel has filled the control buffer that this header points to; it is not
            // touched before the next call.
            let (segment, ecn) = unsafe { read_controls(message) };
            let segment = if segment == 0 { len } else { segment };
            self.received.push(match address_of(name) {
                Some(from) => Received { len, segment: segment.max(1), from, ecn },
                None => Received { len: 0, segment: 1, from: (Ipv4Addr::UNSPECIFIED, 0).into(), ecn },
            });
        }
        Ok(got)
    }

    /// What the last call received: each message with its bytes.
    pub fn messages(&self) -> impl Iterator<Item = (&Received, &[u8])> {
        self.received.iter().zip(self.slab.chunks_exact(self.room)).map(|(m, room)| (m, &room[..m.len]))
    }
}

/// Length of the datagrams in a run (0: not a run) and their mark.
///
/// # Safety
/// SAFETY: `message` points to a control buffer that the kernel has filled.
unsafe fn read_controls(message: &libc::msghdr) -> (usize, Ecn) {
    let (mut segment, mut ecn) = (0, Ecn::Not);
    // SAFETY: as promised by the caller; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside msg_controllen.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: not null, so a whole header inside the buffer; data is read without alignment, and is
        // there in the length that the kernel writes for these kinds (int; one byte for IP_TOS).
        unsafe {
            let header = &*next;
            let data = libc::CMSG_DATA(next);
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_UDP, UDP_GRO) => {
                    segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).unwrap_or(0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => ecn = Ecn::of_tos(data.read()),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<libc::c_int>().read_unaligned();
                    ecn = Ecn::of_tos(class.to_le_bytes()[0]);
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(message, next);
        }
    }
    (segment, ecn)
}

/// Sends `bytes` to `to` as datagrams of `segment` bytes (the last may be shorter), marked `ecn`.
/// One datagram when `segment` is not below the length.
///
/// # Errors
/// What the kernel says: `WouldBlock` when the socket's buffer is full; EIO, EINVAL and others when
/// it cannot send runs this way.
pub fn send(socket: &impl AsRawFd, to: SocketAddr, bytes: &[u8], segment: usize, ecn: Ecn) -> io::Result<()> {
    let address = socket2::SockAddr::from(to);
    let run = (segment < bytes.len()).then(|| u16::try_from(segment).unwrap_or(u16::MAX));
    let mut control = Control([0; 96]);
    let used = write_controls(&mut control, to, run, ecn);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let message = message_to(&address, &raw mut vector, &control, used);
    // SAFETY: name, iovec, bytes and control buffer outlive the call, which only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends every `piece` bytes of `bytes` (the last may be fewer), without the first `skip` of each, as a
/// datagram of its own to `to`, marked `ecn`: at most [`MESSAGES`] by one call. How many went out: fewer
/// when the kernel refused the next one.
///
/// # Errors
/// What the kernel says of the first one; `WouldBlock` when the socket's buffer is full.
pub fn send_each(
    socket: &impl AsRawFd,
    to: SocketAddr,
    bytes: &[u8],
    (piece, skip): (usize, usize),
    ecn: Ecn,
) -> io::Result<usize> {
    let address = socket2::SockAddr::from(to);
    let mut control = Control([0; 96]);
    let used = write_controls(&mut control, to, None, ecn);
    // SAFETY: iovec, mmsghdr and msghdr are plain data for which zeros are valid.
    let (mut vectors, mut headers) =
        unsafe { (mem::zeroed::<[libc::iovec; MESSAGES]>(), mem::zeroed::<[libc::mmsghdr; MESSAGES]>()) };
    let mut count = 0;
    for ((vector, header), whole) in vectors.iter_mut().zip(&mut headers).zip(bytes.chunks(piece.max(1))) {
        let datagram = whole.get(skip..).unwrap_or_default();
        vector.iov_base = datagram.as_ptr().cast_mut().cast();
        vector.iov_len = datagram.len();
        header.msg_hdr = message_to(&address, &raw mut *vector, &control, used);
        count += 1;
    }
    // SAFETY: the first `count` headers point to iovecs, bytes, one name and one control buffer that outlive
    // the call, which only reads them.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A message of one piece. It is only as good as what it points to.
fn message_to(
    address: &socket2::SockAddr,
    vector: *mut libc::iovec,
    control: &Control,
    used: usize,
) -> libc::msghdr {
    // SAFETY: a msghdr of zeros is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = vector;
    message.msg_iovlen = 1;
    if used > 0 {
        message.msg_control = control.0.as_ptr().cast_mut().cast();
        message.msg_controllen = used as _;
    }
    message
}

/// Writes what a message carries beside its bytes: the length of the datagrams of a run, and the mark of the
/// outer headers. How much of the buffer that takes.
fn write_controls(control: &mut Control, to: SocketAddr, run: Option<u16>, ecn: Ecn) -> usize {
    // SAFETY: a msghdr of zeros is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let marked = (ecn != Ecn::Not).then(|| libc::c_int::from(ecn.bits()));
    let class =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
    let mut used = 0;
    // SAFETY: the buffer has room for three messages of an int and at most two are written; both stay
    // inside it by CMSG_FIRSTHDR and CMSG_NXTHDR, and data is written without alignment.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&message);
        if let Some(run) = run {
            write_control(next, (libc::SOL_UDP, UDP_SEGMENT), run);
            used += libc::CMSG_SPACE(size_of::<u16>() as _) as usize;
            next = libc::CMSG_NXTHDR(&message, next);
        }
        if let Some(mark) = marked {
            write_control(next, class, mark);
            used += libc::CMSG_SPACE(size_of::<libc::c_int>() as _) as usize;
        }
    }
    used
}

/// Fills one control message.
///
/// # Safety
/// SAFETY: `at` points to a header inside a buffer with room for a value of `T` behind it, or is null.
unsafe fn write_control<T>(at: *mut libc::cmsghdr, kind: (libc::c_int, libc::c_int), value: T) {
    if at.is_null() {
        return;
    }
    // SAFETY: as promised by the caller.
    unsafe {
        (*at).cmsg_level = kind.0;
        (*at).cmsg_type = kind.1;
        (*at).cmsg_len = libc::CMSG_LEN(size_of::<T>() as _) as _;
        libc::CMSG_DATA(at).cast::<T>().write_unaligned(value);
    }
}

/// linux/udp.h: datagrams of this length out of one buffer.
const UDP_SEGMENT: libc::c_int = 103;
/// linux/udp.h: runs of equal datagrams in one buffer.
const UDP_GRO: libc::c_int = 104;

/// Whether the kernel knows `UDP_SEGMENT` (4.18).
pub fn can_send_runs(socket: &UdpSocket) -> bool {
    let (mut value, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: value and length are valid for the call and as long as they say.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_SEGMENT,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    status == 0
}

/// Asks for runs; whether the kernel gives them (5.0).
pub fn receive_runs(socket: &UdpSocket) -> bool {
    let on: libc::c_int = 1;
    // SAFETY: the value is valid for the call and as long as said.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_GRO,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    status == 0
}

#[cfg(test)]
mod tests;
