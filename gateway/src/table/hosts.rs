//! Values by host name: exact, by wildcard, or for every name. The best fit comes first.

use meshd_proto::DnsName;
use std::collections::HashMap;

/// A name as a configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// This name.
    Exact(String),
    /// Every name below this one, at any depth (Gateway API's `*.example.com`).
    Below(String),
    /// Every name, and none.
    Any,
}

impl Pattern {
    /// The pattern of a configured name.
    pub fn of(name: &DnsName) -> Self {
        match name.as_str().strip_prefix("*.") {
            Some(base) => Self::Below(base.to_owned()),
            None if name.as_str() == "*" => Self::Any,
            None => Self::Exact(name.as_str().to_owned()),
        }
    }

    /// What both patterns fit, if anything. Of two wildcards it is the longer one.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, x) | (x, Self::Any) => Some(x.clone()),
            (Self::Exact(a), Self::Exact(b)) => (a == b).then(|| self.clone()),
            (Self::Exact(name), Self::Below(base)) | (Self::Below(base), Self::Exact(name)) => {
                is_below(name, base).then(|| Self::Exact(name.clone()))
            }
            (Self::Below(a), Self::Below(b)) => match (a == b || is_below(a, b), is_below(b, a)) {
                (true, _) => Some(self.clone()),
                (_, true) => Some(other.clone()),
                _ => None,
            },
        }
    }

    /// Whether `host` fits.
    pub fn fits(&self, host: Option<&str>) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Exact(name), Some(host)) => name == host,
            (Self::Below(base), Some(host)) => is_below(host, base),
            _ => false,
        }
    }
}

fn is_below(name: &str, base: &str) -> bool {
    name.strip_suffix(base).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
}

/// Values by [`Pattern`].
#[derive(Debug)]
pub struct Hosts<T> {
    exact: HashMap<String, T>,
    below: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// The value of `pattern`, made when it is not there.
    pub fn entry(&mut self, pattern: &Pattern, make: impl FnOnce() -> T) -> &mut T {
        match pattern {
            Pattern::Exact(name) => self.exact.entry(name.clone()).or_insert_with(make),
            Pattern::Below(base) => self.below.entry(base.clone()).or_insert_with(make),
            Pattern::Any => self.any.get_or_insert_with(make),
        }
    }

    /// All values, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().chain(self.below.values_mut()).chain(self.any.as_mut())
    }

    /// The values that fit `host`, the most particular first: the name, the longest wildcard, every name.
    pub fn find<'a>(&'a self, host: Option<&str>) -> impl Iterator<Item = &'a T> {
        let exact = host.and_then(|h| self.exact.get(h));
        let wild = host.filter(|_| !self.below.is_empty());
        let below = wild
            .into_iter()
            .flat_map(|h| h.match_indices('.').filter(|(at, _)| *at > 0).map(move |(at, _)| &h[at + 1..]))
            .filter_map(|base| self.below.get(base))
            .collect::<Vec<_>>();
        exact.into_iter().chain(below).chain(self.any.as_ref())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.is_none()
    }
}
