//! Names of the coordinator and of relays: resolved beside the mesh, never through our own resolver.
//!
//! While the host's DNS is not lent to us the host's own way is right, with all that it knows (mDNS,
//! search domains, whatever nsswitch names). Once it is, that way leads to ourselves, and through an
//! exit that may need these very names to come up: then `/etc/hosts` is read and the resolvers that the
//! host used before are asked, by sockets whose mark keeps them out of the mesh.

use meshd_dns::forward::Upstream;
use meshd_dns::probe::addresses_by;
use meshd_proto::DnsName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Largest `/etc/hosts` that is read.
const MAX_HOSTS: usize = 4 << 20;

/// Resolves names beside the mesh. Cheap to clone.
#[derive(Clone, Debug)]
pub struct OutsideNames {
    lease: Option<Lease>,
    hosts: PathBuf,
}

#[derive(Clone, Debug)]
struct Lease {
    /// Whether the host's DNS is lent to us, or about to be.
    lent: watch::Receiver<bool>,
    /// The resolvers the host used before.
    previous: watch::Receiver<Vec<SocketAddr>>,
    mark: Option<u32>,
}

impl OutsideNames {
    /// The host's own way: for programs that never take its DNS over.
    pub fn of_host() -> Self {
        Self { lease: None, hosts: PathBuf::from("/etc/hosts") }
    }

    /// For the daemon. `lent`: the host's DNS is ours; then `previous` are asked by sockets with `mark`.
    pub fn beside(
        lent: watch::Receiver<bool>,
        previous: watch::Receiver<Vec<SocketAddr>>,
        mark: Option<u32>,
    ) -> Self {
        Self { lease: Some(Lease { lent, previous, mark }), ..Self::of_host() }
    }

    /// With another file in place of `/etc/hosts`.
    #[must_use]
    pub fn with_hosts(self, hosts: PathBuf) -> Self {
        Self { hosts, ..self }
    }

    /// The socket addresses of `host:port`; the host may be an address.
    ///
    /// # Errors
    /// When nobody knows the name.
    pub async fn lookup_host(&self, at: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(literal) = at.parse() {
            return Ok(vec![literal]);
        }
        let malformed = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{at}` is not host:port"));
        let (host, port) = at.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        Ok(self.lookup(host).await?.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// The addresses of `host`, which may be one itself.
    ///
    /// # Errors
    /// When nobody knows the name.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(literal) = bare.parse() {
            return Ok(vec![literal]);
        }
        let Some(lease) = &self.lease else { return by_host(bare).await };
        if *lease.lent.borrow() {
            let listed = listed(&self.hosts, bare);
            return if listed.is_empty() { lease.ask(bare).await } else { Ok(listed) };
        }
        match by_host(bare).await {
            Ok(found) => Ok(found),
            // The host's way may be shut with all the rest while an exit is away; ours never is.
            Err(error) => lease.ask(bare).await.map_err(|_| error),
        }
    }
}

impl Lease {
    async fn ask(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let name: DnsName =
            host.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {e}")))?;
        let upstreams: Vec<Upstream> =
            self.previous.borrow().iter().map(|addr| Upstream { addr: *addr, mark: self.mark }).collect();
        addresses_by(&upstreams, &name).await.map_err(io::Error::other)
    }
}

async fn by_host(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|at| at.ip()).collect())
}

/// What a hosts file says of `host`.
fn listed(hosts: &Path, host: &str) -> Vec<IpAddr> {
    let text = match std::fs::read_to_string(hosts) {
        Ok(text) if text.len() <= MAX_HOSTS => text,
        _ => return Vec::new(),
    };
    let host = host.trim_end_matches('.');
    let address = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host)).then_some(ip)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::UdpSocket;
    use tokio::task::JoinSet;

    /// A resolver that knows 192.0.2.7 and 2001:db8::7 for every name, and counts.
    async fn resolver(tasks: &mut JoinSet<()>) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (at, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let mut reply = packet[..len].to_vec();
                let aaaa = reply[len - 3] == 28;
                reply[2] |= 0x80;
                reply[7] = 1;
                reply.extend([0xc0, 12, 0, if aaaa { 28 } else { 1 }, 0, 1, 0, 0, 0, 60]);
                if aaaa {
                    reply.extend([0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
                } else {
                    reply.extend([0, 4, 192, 0, 2, 7]);
                }
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        (at, asked)
    }

    #[tokio::test]
    async fn once_the_hosts_dns_is_lent_only_its_previous_resolvers_are_asked() {
        let mut tasks = JoinSet::new();
        let (at, asked) = resolver(&mut tasks).await;
        let (lent, lent_rx) = watch::channel(false);
        let (_previous, previous_rx) = watch::channel(vec![at]);
        let names = OutsideNames::beside(lent_rx, previous_rx, None);
        // Known to the host itself; our own resolver would be asked by this way as well.
        assert!(names.lookup("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(asked.load(Ordering::Relaxed), 0);

        lent.send_replace(true);
        let found = names.lookup_host("vpn.example.org:443").await.unwrap();
        assert_eq!(found, ["192.0.2.7:443".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap()]);
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one question for each family");
        let none = OutsideNames::beside(watch::channel(true).1, watch::channel(vec![]).1, None);
        none.lookup("vpn.example.org").await.unwrap_err();
    }

    #[tokio::test]
    async fn the_hosts_file_counts_and_addresses_are_no_names() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        std::fs::write(&hosts, "# vpn.lan\n192.0.2.9 vpn.LAN vpn # home\n::1 localhost\n2001:db8::9 vpn\n")
            .unwrap();
        let beside = OutsideNames::beside(watch::channel(true).1, watch::channel(vec![]).1, None);
        let names = beside.with_hosts(hosts);
        assert_eq!(names.lookup("vpn.lan").await.unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(names.lookup("VPN").await.unwrap().len(), 2);
        assert_eq!(names.lookup("[2001:db8::1]").await.unwrap().len(), 1);
        let at = names.lookup_host("[2001:db8::1]:443").await.unwrap();
        assert_eq!(at, ["[2001:db8::1]:443".parse().unwrap()]);
        names.lookup_host("vpn.lan").await.unwrap_err();
        names.lookup("home").await.unwrap_err();
    }
}
