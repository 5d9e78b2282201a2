//! smoltcp's view of the outside, for the length of one call: at most one packet in, a buffer out.

use crate::userspace::lane::Packets;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

pub(super) struct Port<'a> {
    pub(super) rx: Option<&'a [u8]>,
    pub(super) out: &'a mut Packets,
    /// Bytes that may lie in `out` at most.
    pub(super) room: usize,
    pub(super) mtu: usize,
}

impl Device for Port<'_> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        Some((Rx(self.rx.take()?), Tx(self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        (self.out.bytes().saturating_add(self.mtu) <= self.room).then_some(Tx(self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

pub(super) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Tx<'a>(&'a mut Packets);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        self.0.push_with(len, f)
    }
}
