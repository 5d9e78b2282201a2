//! How many connections there are, in total and of one source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of one port.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    total: u32,
    by_source: HashMap<IpAddr, u32>,
}

/// One connection that counts; dropped, it counts no more.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Arc<Counts>,
    source: Option<IpAddr>,
}

impl Counts {
    /// Counts one more, unless there are `most`.
    pub(crate) fn admit(self: &Arc<Self>, most: u32) -> Option<Permit> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.total >= most {
            return None;
        }
        inner.total += 1;
        Some(Permit { counts: Arc::clone(self), source: None })
    }
}

impl Permit {
    /// Counts it as one of `source`, unless that has `most`.
    pub(crate) fn claim(&mut self, source: IpAddr, most: u32) -> bool {
        let source = group(source);
        let mut inner = self.counts.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let count = inner.by_source.entry(source).or_insert(0);
        if *count >= most {
            return false;
        }
        *count += 1;
        self.source = Some(source);
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inner = self.counts.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total = inner.total.saturating_sub(1);
        if let Some(source) = self.source
            && let Some(count) = inner.by_source.get_mut(&source)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.by_source.remove(&source);
            }
        }
    }
}

/// A host has a whole IPv6 /64.
fn group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_bounded_in_total_and_by_source() {
        let counts = Arc::new(Counts::default());
        let mut first = counts.admit(3).unwrap();
        assert!(first.claim("2001:db8::1".parse().unwrap(), 1));
        let mut second = counts.admit(3).unwrap();
        assert!(!second.claim("2001:db8::2".parse().unwrap(), 1));
        assert!(second.claim("2001:db8:0:1::2".parse().unwrap(), 1));
        let third = counts.admit(3).unwrap();
        assert!(counts.admit(3).is_none());
        drop((first, third));
        assert_eq!(counts.inner.lock().unwrap().by_source.len(), 1);
        assert!(counts.admit(3).is_some());
    }
}
