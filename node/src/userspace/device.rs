//! The stack as the data threads see it: a device of whole packets.

use super::netstack::Netstack;
use crate::data::PacketDevice;
use meshd_engine::data::{Offload, Offloads};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

impl AsFd for Netstack {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets_wait()
    }
}

impl PacketDevice for Netstack {
    fn accepts(&self) -> Offloads {
        Offloads::default()
    }

    fn read(&self, room: &mut [u8]) -> io::Result<(usize, Offload)> {
        let len = self.next_packet(room).ok_or(io::ErrorKind::WouldBlock)?;
        Ok((len, Offload::None))
    }

    fn write(&self, _: Offload, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.deliver(parts) { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}
