//! Who may hold how many connections.
//!
//! All connections together are bounded, and those of one source address that are no session of a member:
//! a stranger cannot take the places of everybody. An IPv6 source counts by its /64, which one machine can
//! fill by itself; and strangers from everywhere together have less than half of the places. Members do not count, however many share an address: a site behind one router may be large.
//! Loopback and trusted proxies do not count either: a reverse proxy brings everybody from there.

use crate::api::TrustedProxies;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections at once, those of nodes included.
const MAX_CONNECTIONS: usize = 20_000;
/// Most connections at once from one source that are no session of a member.
const MAX_STRANGERS: usize = 256;

/// Most of them from everywhere.
const ALL_STRANGERS: usize = 8192;

/// The places there are, and who holds them.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    places: Arc<Semaphore>,
    strangers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place. [`Slot::split`] parts what a member gives back.
#[derive(Debug)]
pub(super) struct Slot {
    place: OwnedSemaphorePermit,
    stranger: Option<Stranger>,
}

/// Counts for its source until it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    source: IpAddr,
    strangers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_CONNECTIONS)), strangers: Arc::default() }
    }

    /// Waits until there is a place for one more connection.
    pub(super) async fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// The slot of a connection from `ip`; `None`: there are too many from there.
    pub(super) fn take(
        &self,
        place: OwnedSemaphorePermit,
        ip: IpAddr,
        proxies: &TrustedProxies,
    ) -> Option<Slot> {
        if ip.is_loopback() || proxies.contains(ip) {
            return Some(Slot { place, stranger: None });
        }
        let source = source_of(ip);
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = strangers.values().sum();
        if all >= ALL_STRANGERS || strangers.get(&source).is_some_and(|count| *count >= MAX_STRANGERS) {
            metrics::counter!("meshd_coordinator_connections_refused_total").increment(1);
            return None;
        }
        *strangers.entry(source).or_insert(0) += 1;
        Some(Slot { place, stranger: Some(Stranger { source, strangers: self.strangers.clone() }) })
    }
}

impl Slot {
    /// The place itself, and what is held while the other side is a stranger.
    pub(super) fn split(self) -> (OwnedSemaphorePermit, Option<Stranger>) {
        (self.place, self.stranger)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = strangers.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                strangers.remove(&self.source);
            }
        }
    }
}

fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_source_cannot_take_every_place_and_members_do_not_count() {
        let slots = Slots::new();
        let none = TrustedProxies::default();
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held = Vec::new();
        let mut members = Vec::new();
        for _ in 0..MAX_STRANGERS {
            let place = slots.free_place().await.unwrap();
            held.push(slots.take(place, from("198.51.100.7"), &none).unwrap());
        }
        let place = slots.free_place().await.unwrap();
        assert!(slots.take(place, from("198.51.100.7"), &none).is_none());
        let place = slots.free_place().await.unwrap();
        assert!(
            slots.take(place, from("::ffff:198.51.100.7"), &none).is_none(),
            "the same, written otherwise"
        );
        let place = slots.free_place().await.unwrap();
        held.push(slots.take(place, from("198.51.100.8"), &none).unwrap());
        let proxies = TrustedProxies::new(&["198.51.100.0/29".parse().unwrap()]);
        let place = slots.free_place().await.unwrap();
        held.push(slots.take(place, from("198.51.100.7"), &proxies).expect("a proxy brings many"));
        held.pop();
        // One of them turns out to be a member.
        let (place, stranger) = held.remove(0).split();
        drop(stranger);
        members.push(place);
        let place = slots.free_place().await.unwrap();
        held.push(slots.take(place, from("198.51.100.7"), &none).unwrap());
        drop(held);
        assert!(slots.strangers.lock().unwrap().is_empty());
        assert_eq!(slots.places.available_permits(), MAX_CONNECTIONS - 1);
    }

    #[tokio::test]
    async fn strangers_from_everywhere_leave_places_for_members() {
        let slots = Slots::new();
        let none = TrustedProxies::default();
        let mut held = Vec::new();
        for i in 0..ALL_STRANGERS as u128 {
            let ip = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (i << 64));
            let place = slots.free_place().await.unwrap();
            held.push(slots.take(place, ip.into(), &none).unwrap());
        }
        let place = slots.free_place().await.unwrap();
        assert!(slots.take(place, "198.51.100.9".parse().unwrap(), &none).is_none());
        assert_eq!(
            slots.strangers.lock().unwrap().len(),
            ALL_STRANGERS,
            "nothing is kept of who was refused"
        );
        drop(held.pop());
        let place = slots.free_place().await.unwrap();
        assert!(slots.take(place, "198.51.100.9".parse().unwrap(), &none).is_some());
    }

    #[tokio::test]
    async fn a_network_of_ipv6_addresses_is_one_source() {
        let slots = Slots::new();
        let none = TrustedProxies::default();
        let mut held = Vec::new();
        for i in 0..MAX_STRANGERS as u128 {
            let ip = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + i);
            let place = slots.free_place().await.unwrap();
            held.push(slots.take(place, ip.into(), &none).unwrap());
        }
        let place = slots.free_place().await.unwrap();
        assert!(slots.take(place, "2001:db8::ffff:1".parse().unwrap(), &none).is_none());
        let place = slots.free_place().await.unwrap();
        assert!(slots.take(place, "2001:db8:0:1::1".parse().unwrap(), &none).is_some());
    }
}
