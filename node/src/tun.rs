//! The TUN device: the host's side of the mesh.

use crate::data::PacketDevice;
use meshd_engine::data::{MAX_SEGMENTS, Offload, Offloads, SegmentKind, VIRTIO_HEADER};
use std::io::{self, IoSlice, IoSliceMut};
use tun_rs::{DeviceBuilder, SyncDevice};

/// One queue of the mesh interface. The interface goes away with the last one.
pub struct Tun {
    device: SyncDevice,
    accepts: Offloads,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No `/dev/net/tun`.
    #[error(
        "there is no TUN device (/dev/net/tun): load it with `modprobe tun`, or in a container add \
         `--device /dev/net/tun --cap-add NET_ADMIN`"
    )]
    Missing,
    /// Not allowed.
    #[error("not allowed to make the interface {0}: run as root or with the capability NET_ADMIN")]
    NotAllowed(String),
    /// Somebody else has it.
    #[error("the interface {0} is in use by another program: stop that first, or is meshd running twice?")]
    Busy(String),
    /// Anything else.
    #[error("cannot make the interface {name}: {source}")]
    Io {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl Tun {
    /// Makes the interface, down and without addresses: its queues, of which the first makes it.
    /// `offload`: super-packets are asked for; without it, or on a kernel that has none, whole packets.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn create(name: &str, mtu: u16, queues: usize, offload: bool) -> Result<Vec<Self>, TunError> {
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err(TunError::Missing);
        }
        let build = |offload: bool| {
            let builder = DeviceBuilder::new().name(name).mtu(mtu).enable(false);
            builder.offload(offload).multi_queue(queues > 1).build_sync()
        };
        let device = match build(offload) {
            Err(error)
                if offload && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                tracing::info!(%error, "this kernel has no offload for TUN devices: packets go one by one");
                build(false)
            }
            other => other,
        };
        let first = device.map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::NotAllowed(name.to_owned()),
            Some(libc::EBUSY) => TunError::Busy(name.to_owned()),
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
            _ => TunError::Io { name: name.to_owned(), source },
        })?;
        let io = |source| TunError::Io { name: name.to_owned(), source };
        let mut all = vec![first];
        for _ in 1..queues {
            all.push(all[0].try_clone().map_err(io)?);
        }
        for device in &all {
            rustix::io::ioctl_fionbio(device, true).map_err(|e| io(e.into()))?;
        }
        Ok(all.into_iter().map(Self::new).collect())
    }

    fn new(device: SyncDevice) -> Self {
        let accepts = Offloads { tcp: device.tcp_gso(), udp: device.udp_gso() };
        Self { device, accepts }
    }
}

impl PacketDevice for Tun {
    fn accepts(&self) -> Offloads {
        self.accepts
    }

    fn read(&self, room: &mut [u8]) -> io::Result<(usize, Offload)> {
        if !self.accepts.tcp {
            return Ok((rustix::io::read(&self.device, room)?, Offload::None));
        }
        let mut header = [0; VIRTIO_HEADER];
        let len =
            rustix::io::readv(&self.device, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(room)])?;
        let offload = Offload::from_virtio(&header).map_err(io::Error::other)?;
        Ok((len.saturating_sub(VIRTIO_HEADER), offload))
    }

    fn write(&self, offload: Offload, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if !self.accepts.tcp {
            rustix::io::writev(&self.device, parts)?;
            return Ok(());
        }
        let header = offload.to_virtio(header_len(offload, parts));
        let mut all = [IoSlice::new(&[]); MAX_SEGMENTS + 1];
        all[0] = IoSlice::new(&header);
        let all = all.get_mut(..=parts.len()).ok_or(io::ErrorKind::InvalidInput)?;
        all[1..].copy_from_slice(parts);
        rustix::io::writev(&self.device, all)?;
        Ok(())
    }
}

/// How long the headers of a super-packet are: what the kernel keeps in one piece.
fn header_len(offload: Offload, parts: &[IoSlice<'_>]) -> u16 {
    let Offload::Segments { kind, start, .. } = offload else { return 0 };
    let offset = |first: &IoSlice<'_>| first.get(usize::from(start) + 12).map(|b| u16::from(b >> 4) * 4);
    match kind {
        SegmentKind::Udp => start + 8,
        SegmentKind::Tcp4 | SegmentKind::Tcp6 => start + parts.first().and_then(offset).unwrap_or(20),
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tun")
    }
}

impl std::os::fd::AsFd for Tun {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.device.as_fd()
    }
}
