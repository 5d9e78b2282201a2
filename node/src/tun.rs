//! The TUN device: the host's side of the mesh.

use crate::data::PacketDevice;
use meshd_engine::data::{Offload, Offloads};
use std::io::{self, IoSlice};
use tun_rs::{DeviceBuilder, SyncDevice};

/// The mesh interface. It goes away when this is dropped.
pub struct Tun(SyncDevice);

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
    /// Makes the interface, down and without addresses.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn create(name: &str, mtu: u16) -> Result<Self, TunError> {
        if !std::path::Path::new("/dev/net/tun").exists() {
            return Err(TunError::Missing);
        }
        let device = DeviceBuilder::new().name(name).mtu(mtu).enable(false).build_sync().map_err(
            |source| match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => TunError::NotAllowed(name.to_owned()),
                Some(libc::EBUSY) => TunError::Busy(name.to_owned()),
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::Missing,
                _ => TunError::Io { name: name.to_owned(), source },
            },
        )?;
        rustix::io::ioctl_fionbio(&device, true)
            .map_err(io::Error::from)
            .map_err(|source| TunError::Io { name: name.to_owned(), source })?;
        Ok(Self(device))
    }
}

impl PacketDevice for Tun {
    fn accepts(&self) -> Offloads {
        Offloads::default()
    }

    fn read(&self, room: &mut [u8]) -> io::Result<(usize, Offload)> {
        Ok((rustix::io::read(&self.0, room)?, Offload::None))
    }

    fn write(&self, _offload: Offload, parts: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.0, parts)?;
        Ok(())
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tun")
    }
}

impl std::os::fd::AsFd for Tun {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
