//! The host's side of the data threads, as narrow as they need it: the TUN device of kernel mode, or
//! the stack of userspace mode.
//!
//! Both calls return at once. A device that takes no offloads ([`PacketDevice::accepts`]) reads and is
//! given whole packets only.

use meshd_engine::data::{Offload, Offloads};
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;

/// A device, shared by the threads and the mesh task.
pub type Device = Arc<dyn PacketDevice>;

/// Room that every packet of a device fits in: the longest that IP has.
pub const DEVICE_ROOM: usize = 65_536;

/// Where packets of the host come from and go to. Its descriptor is readable while a packet waits.
pub trait PacketDevice: AsFd + Debug + Send + Sync + 'static {
    /// What may be left to it in [`Self::write`].
    fn accepts(&self) -> Offloads;

    /// Reads the next packet, or super-packet, into `room` ([`DEVICE_ROOM`] bytes): its length, and what
    /// is left to do for it.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise what the device says.
    fn read(&self, room: &mut [u8]) -> io::Result<(usize, Offload)>;

    /// Writes one packet, or one super-packet of the kinds it accepts: all bytes of `parts` in order, of
    /// which the first part holds all headers.
    ///
    /// # Errors
    /// What the device says; `WouldBlock` when it is full. The packet is lost then.
    fn write(&self, offload: Offload, parts: &[IoSlice<'_>]) -> io::Result<()>;
}
