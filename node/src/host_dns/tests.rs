use super::files::{read, write};
use super::journal::lock;
use super::*;
use meshd_dns::{DnsServer, Listener, Names, Scope};
use meshd_proto::netmap::{DnsConfig, Entry, SelfNode};
use meshd_proto::{ClassId, DnsName, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Not text, without a final newline.
const ORIGINAL: &[u8] = b"# caf\xe9\nsearch lan\nnameserver 192.168.1.1\noptions timeout:1";

/// A host in a directory, and our resolver on loopback.
struct Host {
    dir: tempfile::TempDir,
    server: Option<DnsServer>,
    port: u16,
}

impl Host {
    /// Inside of a runtime.
    fn new() -> Self {
        let names = Arc::new(Names::default());
        names.set_map(&map(), Scope::Full);
        let listener =
            Listener { addr: (Ipv4Addr::LOCALHOST, 0).into(), ..Listener::own(Ipv4Addr::LOCALHOST.into()) };
        let server = DnsServer::spawn(&[listener], names).unwrap();
        let host =
            Self { dir: tempfile::tempdir().unwrap(), port: server.addrs()[0].port(), server: Some(server) };
        fs::create_dir_all(host.resolv_conf().parent().unwrap()).unwrap();
        fs::write(host.resolv_conf(), ORIGINAL).unwrap();
        fs::set_permissions(host.resolv_conf(), fs::Permissions::from_mode(0o640)).unwrap();
        host
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn resolv_conf(&self) -> PathBuf {
        self.root().join(RESOLV_CONF)
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn content(&self) -> Content {
        read(&self.resolv_conf()).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.resolv_conf()).unwrap()).into_owned()
    }

    async fn lease(&self) -> (HostDns, Handles) {
        let place = Place { root: self.root(), state_dir: self.state(), dns_port: self.port };
        HostDns::new(place, "run-1".into()).await.unwrap()
    }

    /// Everything that is there, to see that nothing stays behind.
    fn files(&self) -> Vec<String> {
        let dirs = [self.root().join("etc"), self.state()];
        let entries = dirs.iter().filter_map(|d| fs::read_dir(d).ok()).flatten();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn map() -> NetworkMap {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "pi".parse().unwrap(),
        addrs: MeshAddrs { v4: [100, 71, 0, 1].into(), v6: "fd7a:1:2::1".parse().unwrap() },
        class: ClassId(1),
        tags: vec![],
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse().unwrap(), v6: "fd7a:1:2::/48".parse().unwrap() },
        approved_routes: vec![],
        pending_routes: vec![],
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::DnsConfig(DnsConfig {
        domain: "home.internal".parse().unwrap(),
        search: vec![],
        split: vec![],
        nameservers: vec![],
        ttl: 60,
    }));
    map
}

fn desired() -> DnsDesired {
    DnsDesired {
        interface: "mesh0".into(),
        ifindex: 7,
        resolver: MeshAddrs { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST },
        search: vec!["home.internal".parse().unwrap()],
        routing: vec![],
        everything: false,
        probe: ("pi.home.internal".parse::<DnsName>().unwrap(), [100, 71, 0, 1].into()),
    }
}

const ACTIVE: HostDnsStatus = HostDnsStatus::Active { through: "/etc/resolv.conf", repairs: 0 };

#[tokio::test]
async fn the_file_is_switched_and_comes_back_byte_for_byte() {
    let host = Host::new();
    let before = host.content();
    let (mut lease, handles) = host.lease().await;
    assert_eq!(lease.previous_resolvers(), ["192.168.1.1:53".parse::<SocketAddr>().unwrap()]);
    assert_eq!(lease.converge(&desired()).await.unwrap(), ACTIVE);
    assert!(host.text().contains("\nnameserver 127.0.0.1\nsearch home.internal lan\noptions timeout:1\n"));
    assert!(matches!(host.content(), Content::File { mode: 0o640, .. }));
    let journal = host.state().join("host-dns.json");
    assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        lease.converge(&desired()).await.unwrap(),
        ACTIVE,
        "again: nothing changes, nothing is repaired"
    );
    assert_eq!(*handles.previous.borrow(), lease.previous_resolvers());
    lease.release().await.unwrap();
    assert_eq!(host.content(), before);
    assert_eq!(host.files(), ["host-dns.lock", "resolv.conf"]);
    lease.release().await.unwrap();
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_something_that_restore_undoes() {
    // The steps of a switch: journal, the new file beside, the rename; and the restore's own.
    for step in 0..6 {
        let host = Host::new();
        let before = host.content();
        let (mut lease, _handles) = host.lease().await;
        lease.converge(&desired()).await.unwrap();
        let ours = host.content();
        let beside = host.resolv_conf().with_file_name(".resolv.conf.meshd-new");
        match step {
            0 => write(&host.resolv_conf(), &before).unwrap(),
            1 => {
                write(&host.resolv_conf(), &before).unwrap();
                fs::write(&beside, "# Written").unwrap();
            }
            2 => (),
            3 => fs::write(host.resolv_conf(), &ours.bytes().unwrap()[..40]).unwrap(),
            4 => fs::write(host.resolv_conf(), &ORIGINAL[..9]).unwrap(),
            _ => fs::write(host.resolv_conf(), "").unwrap(),
        }
        drop(lease);
        let restored = restore(&host.state()).await.unwrap();
        assert!(restored.resolv_conf && !restored.left_alone, "step {step}: {restored:?}");
        assert_eq!(host.content(), before, "step {step}");
        assert_eq!(host.files(), ["host-dns.lock", "resolv.conf"], "step {step}");
        assert_eq!(restore(&host.state()).await.unwrap(), Restored::default(), "twice is once");
    }
}

#[tokio::test]
async fn a_file_that_was_missing_is_removed_again() {
    let host = Host::new();
    fs::remove_file(host.resolv_conf()).unwrap();
    let (mut lease, _handles) = host.lease().await;
    assert_eq!(lease.converge(&desired()).await.unwrap(), ACTIVE);
    assert!(host.text().contains("nameserver 127.0.0.1"));
    restore(&host.state()).await.unwrap();
    assert_eq!(host.content(), Content::Absent);
}

#[tokio::test]
async fn a_resolver_that_does_not_answer_is_not_switched_to() {
    let mut host = Host::new();
    host.server.take().unwrap().shutdown().await;
    let before = host.content();
    let (mut lease, _handles) = host.lease().await;
    let status = lease.converge(&desired()).await.unwrap();
    assert!(matches!(status, HostDnsStatus::Waiting { lasting: false, .. }), "{status}");
    lease.converge(&desired()).await.unwrap();
    let status = lease.converge(&desired()).await.unwrap();
    assert!(
        matches!(status, HostDnsStatus::Waiting { lasting: true, .. }),
        "`up` waits for nothing: {status}"
    );
    assert_eq!(host.content(), before);
    assert_eq!(host.files(), ["host-dns.lock", "resolv.conf"]);
}

#[tokio::test]
async fn a_resolver_that_answers_something_else_is_not_switched_to() {
    let host = Host::new();
    let (mut lease, _handles) = host.lease().await;
    let other =
        DnsDesired { probe: ("pi.home.internal".parse().unwrap(), [100, 71, 0, 9].into()), ..desired() };
    let status = lease.converge(&other).await.unwrap().to_string();
    assert!(status.contains("says that pi.home.internal is [100.71.0.1], not 100.71.0.9"), "{status}");
}

#[tokio::test]
async fn what_dhclient_writes_is_kept_as_upstream_and_as_what_comes_back() {
    let host = Host::new();
    let (mut lease, handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    let renewed = "search other.lan\nnameserver 10.9.9.9\n";
    fs::write(host.resolv_conf(), renewed).unwrap();
    let status = lease.converge(&desired()).await.unwrap();
    assert_eq!(status.to_string(), "through /etc/resolv.conf, repaired 1 times");
    assert!(host.text().contains("\nnameserver 127.0.0.1\nsearch home.internal other.lan\n"));
    assert_eq!(*handles.previous.borrow(), ["10.9.9.9:53".parse::<SocketAddr>().unwrap()]);
    restore(&host.state()).await.unwrap();
    assert_eq!(host.text(), renewed);
}

#[tokio::test]
async fn what_somebody_wrote_after_a_kill_is_left_alone() {
    let host = Host::new();
    let (mut lease, _handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    drop(lease);
    fs::write(host.resolv_conf(), "nameserver 10.9.9.9\n").unwrap();
    let restored = restore(&host.state()).await.unwrap();
    assert!(restored.left_alone);
    assert_eq!(host.text(), "nameserver 10.9.9.9\n");
    assert_eq!(host.files(), ["host-dns.lock", "resolv.conf"]);
}

#[tokio::test]
async fn a_link_of_somebody_else_is_names_only_and_says_what_to_do() {
    let host = Host::new();
    let target = host.root().join("run/resolvconf/resolv.conf");
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::write(&target, "nameserver 10.1.1.1\n").unwrap();
    let link = Content::Symlink { target: "../run/resolvconf/resolv.conf".into() };
    fs::remove_file(host.resolv_conf()).unwrap();
    write(&host.resolv_conf(), &link).unwrap();
    let (mut lease, _handles) = host.lease().await;
    assert_eq!(lease.previous_resolvers(), ["10.1.1.1:53".parse::<SocketAddr>().unwrap()]);
    insta::assert_snapshot!(lease.converge(&desired()).await.unwrap(), @"names only: /etc/resolv.conf is a link to ../run/resolvconf/resolv.conf and belongs to resolvconf; make resolvconf use 127.0.0.1 as first resolver, or ask it by `dig @127.0.0.1`");
    lease.release().await.unwrap();
    assert_eq!(host.content(), link);
}

#[tokio::test]
async fn a_link_that_takes_the_files_place_is_not_undone() {
    let host = Host::new();
    let (mut lease, _handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    let link = Content::Symlink { target: "/run/NetworkManager/resolv.conf".into() };
    fs::remove_file(host.resolv_conf()).unwrap();
    write(&host.resolv_conf(), &link).unwrap();
    let status = lease.converge(&desired()).await.unwrap();
    assert!(status.to_string().contains("belongs to NetworkManager"), "{status}");
    lease.release().await.unwrap();
    assert_eq!(host.content(), link);
}

#[tokio::test]
async fn a_lost_journal_is_made_up_for_by_the_file_itself() {
    let host = Host::new();
    fs::write(host.resolv_conf(), "nameserver 192.168.1.1\nsearch lan\n").unwrap();
    let (mut lease, _handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    fs::remove_dir_all(host.state()).unwrap();
    let (mut lease, _handles) = host.lease().await;
    assert_eq!(lease.previous_resolvers(), ["192.168.1.1:53".parse::<SocketAddr>().unwrap()]);
    let more = DnsDesired { search: vec!["x.internal".parse().unwrap()], ..desired() };
    lease.converge(&more).await.unwrap();
    lease.release().await.unwrap();
    assert_eq!(host.text(), "nameserver 192.168.1.1\nsearch lan\n");
}

#[tokio::test]
async fn the_next_start_puts_back_what_a_killed_run_left() {
    let host = Host::new();
    let before = host.content();
    let (mut lease, _handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    drop(lease);
    let (lease, _handles) = host.lease().await;
    assert_eq!(host.content(), before);
    assert_eq!(lease.previous_resolvers(), ["192.168.1.1:53".parse::<SocketAddr>().unwrap()]);
}

#[tokio::test]
async fn a_running_lease_repairs_the_file_and_gives_it_back_at_the_end() {
    let host = Host::new();
    let (lease, mut handles) = host.lease().await;
    let (want, wanted) = watch::channel(Some(desired()));
    let end = CancellationToken::new();
    let running = lease.run(wanted, end.clone());
    let script = async {
        let mut reach = async |status: &str| {
            let reached = handles.status.wait_for(|s| s.to_string() == status);
            tokio::time::timeout(Duration::from_secs(8), reached).await.expect(status).unwrap();
        };
        reach("through /etc/resolv.conf").await;
        for n in 1..=3 {
            // As dhclient does: a new file over the old one.
            let new = host.resolv_conf().with_file_name("resolv.conf.dhclient-new");
            fs::write(&new, format!("nameserver 10.9.9.{n}\n")).unwrap();
            fs::rename(&new, host.resolv_conf()).unwrap();
            reach(&format!("through /etc/resolv.conf, repaired {n} times")).await;
            assert!(host.text().contains(&format!(
                "nameserver 127.0.0.1\nsearch home.internal\n#| nameserver 10.9.9.{n}\n"
            )));
        }
        want.send(None).unwrap();
        reach("not set").await;
        assert_eq!(host.text(), "nameserver 10.9.9.3\n");
        want.send(Some(desired())).unwrap();
        reach("through /etc/resolv.conf").await;
        end.cancel();
    };
    tokio::join!(running, script);
    assert_eq!(host.text(), "nameserver 10.9.9.3\n");
    assert_eq!(*handles.previous.borrow(), ["10.9.9.3:53".parse::<SocketAddr>().unwrap()]);
}

#[test]
fn the_supervisor_restores_its_own_run_when_the_pipe_ends() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = runtime.block_on(async { Host::new() });
    let before = host.content();
    runtime.block_on(async { host.lease().await.0.converge(&desired()).await.unwrap() });
    let end_of = |lease: &'static str| {
        let (reader, writer) = std::io::pipe().unwrap();
        let state = host.state();
        let waiting = std::thread::spawn(move || supervise(&state, lease, reader));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(writer);
        waiting.join().unwrap().unwrap()
    };
    assert_eq!(end_of("another-run"), Restored::default());
    assert_ne!(host.content(), before);
    assert!(end_of("run-1").resolv_conf);
    assert_eq!(host.content(), before);
}

#[tokio::test]
async fn two_who_restore_do_not_get_in_each_others_way() {
    let host = Host::new();
    let before = host.content();
    let (mut lease, _handles) = host.lease().await;
    lease.converge(&desired()).await.unwrap();
    let state = host.state();
    let held = lock(&state).await.unwrap();
    let (a, b, ()) = tokio::join!(restore(&state), restore(&state), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_ne!(host.content(), before, "nobody works without the lock");
        drop(held);
    });
    assert_ne!(a.unwrap(), b.unwrap(), "one did it, one found nothing to do");
    assert_eq!(host.content(), before);
}

#[tokio::test]
async fn a_damaged_journal_is_reported_and_nothing_is_changed() {
    let host = Host::new();
    fs::create_dir_all(host.state()).unwrap();
    fs::write(host.state().join("host-dns.json"), "{").unwrap();
    let error = restore(&host.state()).await.unwrap_err().to_string();
    assert!(error.contains("host-dns.json"), "{error}");
    assert_eq!(fs::read(host.resolv_conf()).unwrap(), ORIGINAL);
}
