//! Which service gets which address. Pure: the same pools and requests give the same answer.
//!
//! Nothing is remembered. What a service holds comes in with its request (from its status, or from what the
//! coordinator publishes of it), so a restart at any moment changes no address and loses none.
//!
//! Invariants (property-tested): two services have one address only when both name the same key and no port
//! is in both · an address is in a pool that takes the service and in a range that the coordinator delegated
//! · who holds an address that still fits keeps it, whatever else comes or goes · a service gets all the
//! families that it needs, or nothing.

use meshd_proto::cluster::{AddressRange, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// A pool of addresses, as far as allocation cares.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) ranges: Vec<AddressRange>,
    /// Whether it gives addresses to services that do not ask for it.
    pub(crate) auto: bool,
    /// Namespaces that it serves; none: all.
    pub(crate) namespaces: BTreeSet<String>,
    /// Labels that a service needs.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What a service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Request {
    /// `namespace/name`.
    pub(crate) key: Key,
    /// When it was made, in seconds: the older is served first.
    pub(crate) created: i64,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// The families that it has, in order; `true`: IPv4.
    pub(crate) families: Vec<bool>,
    /// Whether one family is enough where no pool has the other.
    pub(crate) one_will_do: bool,
    /// Addresses that it has to get.
    pub(crate) fixed: Vec<IpAddr>,
    /// The pool that it has to be from.
    pub(crate) pool: Option<String>,
    /// With whom it shares an address.
    pub(crate) share: Option<String>,
    /// Its protocols and ports.
    pub(crate) ports: BTreeSet<(Transport, u16)>,
    /// What it has.
    pub(crate) held: Vec<IpAddr>,
}

/// A service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Key {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a service has no address, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no pool of that name.
    #[error("there is no AddressPool `{0}`: create it, or remove the annotation that names it")]
    NoSuchPool(String),
    /// No pool takes the service.
    #[error(
        "no AddressPool takes this service: create one, or change namespaces and serviceSelector of one that exists"
    )]
    NoPool,
    /// A wished address is in no pool.
    #[error(
        "{0} is in no AddressPool that takes this service: add it to a pool, or wish for another address"
    )]
    Outside(IpAddr),
    /// A wished address may not be announced.
    #[error(
        "{0} was not delegated to this cluster: ask an admin of the mesh for `meshd-coordinator clusters add {1} \
         --range …`"
    )]
    NotDelegated(IpAddr, String),
    /// A wished address has somebody else.
    #[error(
        "{0} belongs to {1}: wish for another address, or let both name one key in meshd.dev/allow-shared-ip and \
         use different ports"
    )]
    Taken(IpAddr, Key),
    /// Wished addresses do not fit the families.
    #[error("{0} does not fit the service's ipFamilies: wish for one address of each family that it has")]
    Family(IpAddr),
    /// Nothing is left.
    #[error("no {0} address is left in {1}: add a range, or delete a service that is not needed")]
    Exhausted(&'static str, String),
    /// No pool has that family.
    #[error(
        "no AddressPool of this service has {0} addresses that were delegated to this cluster: add a range"
    )]
    NoFamily(&'static str),
    /// Nothing to serve.
    #[error("the service has no port")]
    NoPorts,
}

impl Refused {
    /// A short name for conditions and events.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchPool(_) | Self::NoPool => "NoPool",
            Self::Outside(_) => "AddressOutsidePools",
            Self::NotDelegated(..) => "AddressNotDelegated",
            Self::Taken(..) => "AddressTaken",
            Self::Family(_) => "AddressFamily",
            Self::Exhausted(..) => "PoolExhausted",
            Self::NoFamily(_) => "NoAddressFamily",
            Self::NoPorts => "NoPorts",
        }
    }
}

/// Everything that allocation knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    /// The pools, in order of their names.
    pub(crate) pools: Vec<Pool>,
    /// What the coordinator delegated to the cluster.
    pub(crate) delegated: Vec<AddressRange>,
    /// The cluster, for messages.
    pub(crate) cluster: String,
}

/// The addresses of each service.
pub(crate) type Allocation = BTreeMap<Key, Result<Vec<IpAddr>, Refused>>;

impl Pools {
    /// Gives every request its addresses, or says why not.
    pub(crate) fn allocate(&self, requests: &[Request]) -> Allocation {
        let mut order: Vec<&Request> = requests.iter().collect();
        order.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        let mut taken = Taken::default();
        let mut out = Allocation::new();
        // Who holds something keeps it; then wishes, which only certain addresses fulfil; then the others.
        for request in &order {
            if let Some(kept) = self.keep(request, &taken) {
                taken.add(request, &kept);
                out.insert(request.key.clone(), Ok(kept));
            }
        }
        for fixed in [true, false] {
            for request in order.iter().filter(|r| r.fixed.is_empty() != fixed) {
                if out.contains_key(&request.key) {
                    continue;
                }
                let found = if fixed { self.wished(request, &taken) } else { self.any(request, &taken) };
                if let Ok(addresses) = &found {
                    taken.add(request, addresses);
                }
                out.insert(request.key.clone(), found);
            }
        }
        out
    }

    /// What a request holds, when all of it still fits.
    fn keep(&self, request: &Request, taken: &Taken) -> Option<Vec<IpAddr>> {
        let held: BTreeSet<IpAddr> = request.held.iter().copied().collect();
        let wished: BTreeSet<IpAddr> = request.fixed.iter().copied().collect();
        let wish_stands = wished.is_empty() || wished == held;
        let families: Vec<bool> = request.held.iter().map(IpAddr::is_ipv4).collect();
        let all = families == request.families;
        // A service that makes do with one family gets the other as soon as there is one.
        let enough = all
            || (request.one_will_do
                && families.len() == 1
                && request.families.contains(&families[0])
                && request.families.iter().filter(|f| **f != families[0]).all(|f| !self.has(request, *f)));
        let fits = |ip: &IpAddr| {
            self.delegates(*ip)
                && self.pools_of(request).any(|p| p.contains(*ip))
                && taken.admits(request, *ip).is_ok()
        };
        (wish_stands
            && enough
            && !held.is_empty()
            && request.held.iter().all(fits)
            && !request.ports.is_empty())
        .then(|| request.held.clone())
    }

    fn wished(&self, request: &Request, taken: &Taken) -> Result<Vec<IpAddr>, Refused> {
        self.check(request)?;
        let mut families = request.families.clone();
        for ip in &request.fixed {
            let place = families.iter().position(|v4| *v4 == ip.is_ipv4()).ok_or(Refused::Family(*ip))?;
            families.remove(place);
            if !self.pools_of(request).any(|p| p.contains(*ip)) {
                return Err(Refused::Outside(*ip));
            }
            if !self.delegates(*ip) {
                return Err(Refused::NotDelegated(*ip, self.cluster.clone()));
            }
            taken.admits(request, *ip).map_err(|other| Refused::Taken(*ip, other))?;
        }
        match families.first() {
            Some(missing) if !request.one_will_do => Err(Refused::NoFamily(family_name(*missing))),
            _ => Ok(request.fixed.clone()),
        }
    }

    fn any(&self, request: &Request, taken: &Taken) -> Result<Vec<IpAddr>, Refused> {
        self.check(request)?;
        let mut found = Vec::new();
        let mut missing = None;
        for v4 in &request.families {
            match self.free(request, *v4, taken) {
                Ok(ip) => found.push(ip),
                Err(why) if request.one_will_do => missing = Some(why),
                Err(why) => return Err(why),
            }
        }
        match (found.is_empty(), missing) {
            (true, Some(why)) => Err(why),
            (true, None) => Err(Refused::NoPool),
            (false, _) => Ok(found),
        }
    }

    fn check(&self, request: &Request) -> Result<(), Refused> {
        if request.ports.is_empty() {
            return Err(Refused::NoPorts);
        }
        if let Some(name) = &request.pool
            && !self.pools.iter().any(|p| p.name == *name)
        {
            return Err(Refused::NoSuchPool(name.clone()));
        }
        if self.pools_of(request).next().is_none() { Err(Refused::NoPool) } else { Ok(()) }
    }

    fn free(&self, request: &Request, v4: bool, taken: &Taken) -> Result<IpAddr, Refused> {
        // A service that shares looks first where the others of its key are.
        if let Some(key) = &request.share {
            let mut with = taken.sharing(key).filter(|ip| ip.is_ipv4() == v4);
            let fits = |ip: &IpAddr| {
                taken.admits(request, *ip).is_ok()
                    && self.delegates(*ip)
                    && self.pools_of(request).any(|p| p.contains(*ip))
            };
            if let Some(ip) = with.find(fits) {
                return Ok(ip);
            }
        }
        let mut names = Vec::new();
        for pool in self.pools_of(request) {
            let own = pool.ranges.iter().filter(|r| r.is_ipv4() == v4);
            let usable = own.flat_map(|r| self.delegated.iter().filter_map(|d| overlap(r, d)));
            let mut any = false;
            for range in usable {
                any = true;
                if let Some(ip) = range.addresses().find(|ip| !taken.has(*ip)) {
                    return Ok(ip);
                }
            }
            if any {
                names.push(pool.name.clone());
            }
        }
        if names.is_empty() {
            return Err(Refused::NoFamily(family_name(v4)));
        }
        Err(Refused::Exhausted(family_name(v4), names.join(", ")))
    }

    fn has(&self, request: &Request, v4: bool) -> bool {
        let ranges = self.pools_of(request).flat_map(|p| p.ranges.iter());
        ranges.filter(|r| r.is_ipv4() == v4).any(|r| self.delegated.iter().any(|d| d.overlaps(r)))
    }

    fn delegates(&self, ip: IpAddr) -> bool {
        self.delegated.iter().any(|r| r.contains(ip))
    }

    /// The pools that take a request.
    fn pools_of<'a>(&'a self, request: &'a Request) -> impl Iterator<Item = &'a Pool> {
        let asked = move |p: &&Pool| match &request.pool {
            Some(name) => p.name == *name,
            None => p.auto || !request.fixed.is_empty(),
        };
        self.pools.iter().filter(asked).filter(|p| p.takes(request))
    }

    /// How many addresses of a pool can be used, and how many services hold one, for its status.
    pub(crate) fn count(&self, pool: &Pool, allocation: &Allocation) -> Count {
        let parts: Vec<AddressRange> =
            pool.ranges.iter().flat_map(|r| self.delegated.iter().filter_map(|d| overlap(r, d))).collect();
        let size = |v4: bool| {
            let own = parts.iter().filter(|r| r.is_ipv4() == v4);
            own.fold(0u64, |sum, r| sum.saturating_add(r.count()))
        };
        let held: BTreeSet<IpAddr> = allocation.values().flatten().flatten().copied().collect();
        let assigned = held
            .iter()
            .filter(|ip| parts.iter().any(|r| r.contains(**ip)))
            .count()
            .try_into()
            .unwrap_or(u64::MAX);
        Count { v4: size(true), v6: size(false), assigned }
    }

    /// Pools that have an address in common with this one.
    pub(crate) fn conflicts(&self, pool: &Pool) -> Vec<String> {
        let shares =
            |other: &&Pool| other.ranges.iter().any(|r| pool.ranges.iter().any(|own| own.overlaps(r)));
        self.pools.iter().filter(|p| p.name != pool.name).filter(shares).map(|p| p.name.clone()).collect()
    }

    /// Ranges of a pool of which nothing, or only a part, was delegated.
    pub(crate) fn undelegated(&self, pool: &Pool) -> Vec<AddressRange> {
        let whole = |r: &&AddressRange| !self.delegated.iter().any(|d| d.covers(r));
        pool.ranges.iter().filter(whole).copied().collect()
    }
}

/// Numbers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    /// Usable IPv4 addresses.
    pub(crate) v4: u64,
    /// Usable IPv6 addresses.
    pub(crate) v6: u64,
    /// Of both, those that a service has.
    pub(crate) assigned: u64,
}

impl Pool {
    fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|r| r.contains(ip))
    }

    fn takes(&self, request: &Request) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&request.key.namespace))
            && self.labels.iter().all(|(k, v)| request.labels.get(k) == Some(v))
    }
}

/// The addresses that are in both.
fn overlap(a: &AddressRange, b: &AddressRange) -> Option<AddressRange> {
    a.overlaps(b).then(|| AddressRange::new(a.first().max(b.first()), a.last().min(b.last())).ok())?
}

const fn family_name(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// Who has which address.
#[derive(Default)]
struct Taken {
    by_ip: BTreeMap<IpAddr, Vec<Holder>>,
}

struct Holder {
    key: Key,
    share: Option<String>,
    ports: BTreeSet<(Transport, u16)>,
}

impl Taken {
    fn add(&mut self, request: &Request, addresses: &[IpAddr]) {
        for ip in addresses {
            self.by_ip.entry(*ip).or_default().push(Holder {
                key: request.key.clone(),
                share: request.share.clone(),
                ports: request.ports.clone(),
            });
        }
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.by_ip.contains_key(&ip)
    }

    /// Who else has the address, if that keeps the request from it.
    fn admits(&self, request: &Request, ip: IpAddr) -> Result<(), Key> {
        let together = |h: &&Holder| {
            request.share.is_some() && h.share == request.share && h.ports.is_disjoint(&request.ports)
        };
        match self.by_ip.get(&ip).into_iter().flatten().find(|h| !together(h)) {
            Some(other) => Err(other.key.clone()),
            None => Ok(()),
        }
    }

    fn sharing<'a>(&'a self, key: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let of_key = move |holders: &Vec<Holder>| holders.iter().all(|h| h.share.as_deref() == Some(key));
        self.by_ip.iter().filter(move |(_, holders)| of_key(holders)).map(|(ip, _)| *ip)
    }
}

#[cfg(test)]
mod tests;
