//! The host's DNS comes back: after 100 SIGKILLs with a plain file, with one that is bind-mounted as in
//! containers, with the real systemd-resolved, the real openresolv and Debian's own resolvconf; and while it is
//! ours, unmodified programs resolve bare node names, across a DHCP renewal.
//!
//! The daemon under test and its supervisor are this test binary again, told their part by the
//! environment. What needs a host of its own runs in private mount, network and process namespaces,
//! with an overlay over /etc and an empty /run: the machine's own files are never touched.
//! Debian packages are fetched with `apt-get download` and unpacked beside the build, not installed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use meshd_dns::{DnsServer, Listener, Names, Scope, Upstream};
use meshd_node::host_dns::{DnsDesired, HostDns, HostDnsStatus, MARK, Place, Supervisor, restore, supervise};
use meshd_proto::netmap::{DnsConfig, Entry, RecordSet, RecordType, RecordValue, SelfNode};
use meshd_proto::{ClassId, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const KILLS: u32 = 100;
const RESOLVER: Ipv4Addr = Ipv4Addr::new(100, 71, 0, 53);
const PI: Ipv4Addr = Ipv4Addr::new(100, 71, 0, 1);

// ---------------------------------------------------------------- what is shown

#[test]
fn a_plain_file_is_as_before_after_a_hundred_sigkills() {
    let me = Part::of("a_plain_file_is_as_before_after_a_hundred_sigkills");
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("root/etc/resolv.conf");
    fs::create_dir_all(conf.parent().unwrap()).unwrap();
    fs::write(&conf, b"# ours to keep: \xff\nsearch lan\nnameserver 192.0.2.1").unwrap();
    fs::set_permissions(&conf, fs::Permissions::from_mode(0o640)).unwrap();
    let look = || files_in(&dir.path().join("root"));
    let kills = me.kill_repeatedly(&dir.path().join("root"), &dir.path().join("state"), "127.0.0.1", look);
    kills.print("plain file");
}

#[test]
fn the_real_systemd_resolved_is_as_before_after_a_hundred_sigkills() {
    let me = Part::of("the_real_systemd_resolved_is_as_before_after_a_hundred_sigkills");
    let packages = Packages::fetch();
    let Some(_inside) = me.in_namespaces() else { return };
    let host = ResolvedHost::start(&packages);
    let dir = tempfile::tempdir().unwrap();
    let before = host.state();
    let kills =
        me.kill_repeatedly(Path::new("/"), &dir.path().join("state"), &RESOLVER.to_string(), || host.state());
    kills.print("systemd-resolved");

    let mut daemon = me.daemon(Path::new("/"), &dir.path().join("state"), &RESOLVER.to_string());
    daemon.until_active();
    assert_eq!(getent("pi"), "100.71.0.1", "a bare name, by glibc through systemd-resolved's stub");
    assert_eq!(getent("up.example"), "203.0.113.9", "other names go where they went");
    assert_eq!(ptr(&host, "100.71.0.1"), "pi.home.internal");
    daemon.kill();
    eventually("put back", || host.state() == before);
    assert_eq!(getent("up.example"), "203.0.113.9");
    assert_eq!(getent("pi"), "");
}

#[test]
fn a_containers_bind_mounted_file_is_as_before_after_many_sigkills() {
    let me = Part::of("a_containers_bind_mounted_file_is_as_before_after_many_sigkills");
    let Some(_inside) = me.in_namespaces() else { return };
    let _servers = plain_host("nameserver 192.0.2.1\n");
    // As container engines do it: nobody can put another file in its place.
    fs::write("/run/resolv.conf", "# of the engine\nsearch engine.test\nnameserver 127.0.0.99").unwrap();
    let bound = run("mount", &["--bind", "/run/resolv.conf", "/etc/resolv.conf"]);
    assert!(bound.status.success(), "{}", text(&bound));
    assert!(fs::rename("/run/resolv.conf", "/etc/resolv.conf").is_err(), "this can be replaced");
    let dir = tempfile::tempdir().unwrap();
    let look = || files_in(Path::new("/etc"));
    let kills =
        me.kill_times(fewer_in_ci(), Path::new("/"), &dir.path().join("state"), &RESOLVER.to_string(), look);
    kills.print("a container's bind-mounted file");
    let mut daemon = me.daemon(Path::new("/"), &dir.path().join("state"), &RESOLVER.to_string());
    daemon.until_active();
    assert_eq!((getent("pi"), getent("up.example")), ("100.71.0.1".into(), "203.0.113.9".into()));
}

#[test]
fn the_real_openresolv_is_as_before_after_many_sigkills_and_follows_dhcp_meanwhile() {
    let me = Part::of("the_real_openresolv_is_as_before_after_many_sigkills_and_follows_dhcp_meanwhile");
    let packages = Packages::fetch();
    let Some(_inside) = me.in_namespaces() else { return };
    let _servers = openresolv_host(&packages);
    let dir = tempfile::tempdir().unwrap();
    let (root, state, resolver) = (Path::new("/"), dir.path().join("state"), RESOLVER.to_string());
    // Its file, and all that it keeps.
    let look = || {
        let mut all = files_in(Path::new("/etc"));
        all.insert("entries".into(), text(&run("resolvconf", &["-l"])));
        let kept = run("sh", &["-c", "cd /run/resolvconf && find . -type f | sort"]);
        all.insert("kept".into(), text(&kept));
        all
    };
    let before = look();
    let kills = me.kill_times(fewer_in_ci(), root, &state, &resolver, look);
    kills.print("openresolv");

    let mut daemon = me.daemon(root, &state, &resolver);
    daemon.until_active();
    let conf = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(conf, "# Generated by resolvconf\nsearch home.internal lan\nnameserver 100.71.0.53\n");
    assert_eq!((getent("pi"), getent("up.example")), ("100.71.0.1".into(), "203.0.113.9".into()));
    // A lease that names another resolver: openresolv's file stays ours, our upstream is the new one.
    tell_openresolv("nameserver 127.0.0.98");
    eventually("new upstream", || getent("renewed.example") == "203.0.113.9");
    assert_eq!((getent("pi"), getent("up.example")), ("100.71.0.1".into(), String::new()));
    tell_openresolv("search lan\nnameserver 127.0.0.99");
    eventually("old upstream", || getent("up.example") == "203.0.113.9");
    daemon.kill();
    eventually("put back", || look() == before);
    assert!(!Path::new("/etc/resolv.conf.bak").exists(), "openresolv took our file for somebody's");
}

#[test]
fn debians_own_resolvconf_is_as_before_after_many_sigkills_and_follows_dhcp_meanwhile() {
    let me = Part::of("debians_own_resolvconf_is_as_before_after_many_sigkills_and_follows_dhcp_meanwhile");
    let packages = Packages::of("host-dns-debian-resolvconf", &["resolvconf"]);
    let Some(_inside) = me.in_namespaces() else { return };
    let _servers = debian_resolvconf_host(&packages);
    let dir = tempfile::tempdir().unwrap();
    let (root, state, resolver) = (Path::new("/"), dir.path().join("state"), RESOLVER.to_string());
    // The link, its file, and all that it keeps.
    let look = || {
        let mut all = files_in(Path::new("/etc"));
        all.insert("link".into(), fs::read_link("/etc/resolv.conf").unwrap().display().to_string());
        all.insert("made".into(), fs::read_to_string("/run/resolvconf/resolv.conf").unwrap());
        let kept = run("sh", &["-c", "cd /run/resolvconf/interface && for f in *; do echo $f; cat $f; done"]);
        all.insert("kept".into(), text(&kept));
        all
    };
    let before = look();
    assert_eq!((getent("up.example"), getent("pi")), ("203.0.113.9".into(), String::new()));
    let kills = me.kill_times(fewer_in_ci(), root, &state, &resolver, look);
    kills.print("Debian's resolvconf");

    let mut daemon = me.daemon(root, &state, &resolver);
    daemon.until_active();
    let conf = fs::read_to_string("/etc/resolv.conf").unwrap();
    let first = conf.lines().find(|line| line.starts_with("nameserver"));
    assert_eq!(first, Some("nameserver 100.71.0.53"), "{conf}");
    assert_eq!((getent("pi"), getent("up.example")), ("100.71.0.1".into(), "203.0.113.9".into()));
    // A lease that names another resolver: we stay first, our upstream is the new one.
    tell_openresolv("nameserver 127.0.0.98");
    eventually("new upstream", || getent("renewed.example") == "203.0.113.9");
    assert_eq!(getent("pi"), "100.71.0.1");
    tell_openresolv("search lan\nnameserver 127.0.0.99");
    eventually("old upstream", || getent("up.example") == "203.0.113.9");
    daemon.kill();
    eventually("put back", || look() == before);
}

#[test]
fn unmodified_programs_resolve_a_bare_name_across_a_dhclient_renewal() {
    let me = Part::of("unmodified_programs_resolve_a_bare_name_across_a_dhclient_renewal");
    let packages = Packages::fetch();
    let Some(_inside) = me.in_namespaces() else { return };
    let musl = musl_resolver();
    let _servers = plain_host("nameserver 127.0.0.99\n");
    let before = files_in(Path::new("/etc"));
    assert_eq!((getent("up.example"), getent("pi")), ("203.0.113.9".into(), String::new()));

    let dir = tempfile::tempdir().unwrap();
    let mut daemon = me.daemon(Path::new("/"), &dir.path().join("state"), &RESOLVER.to_string());
    daemon.until_active();
    let all_names = |up: &str, not: &str| {
        assert_eq!(getent("pi"), "100.71.0.1", "glibc");
        assert_eq!(getent("pi.home.internal"), "100.71.0.1");
        let hosts = run("getent", &["hosts", "pi"]);
        assert!(hosts.status.success() && text(&hosts).contains("pi"), "{}", text(&hosts));
        let nslookup = run("nslookup", &["pi"]);
        assert!(text(&nslookup).contains("Address: 100.71.0.1"), "{}", text(&nslookup));
        let by_musl = |name: &str| text(&run(&musl, &[name])).trim().to_owned();
        assert_eq!((by_musl("pi"), by_musl(up)), ("100.71.0.1".into(), "203.0.113.9".into()), "musl");
        assert_eq!((getent(up), getent(not)), ("203.0.113.9".into(), String::new()));
    };
    all_names("up.example", "renewed.example");

    // A lease that names another resolver, by dhclient's own script.
    let renewal = Command::new(packages.dir.join("sbin/dhclient-script"))
        .env_clear()
        .envs([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("reason", "RENEW"),
            ("interface", "mesh0"),
            ("old_ip_address", "198.51.100.7"),
            ("new_ip_address", "198.51.100.7"),
            ("new_subnet_mask", "255.255.255.0"),
            ("new_domain_name", "renewed.lan"),
            ("new_domain_name_servers", "127.0.0.98"),
        ])
        .output()
        .unwrap();
    eventually("repaired", || {
        let conf = fs::read_to_string("/etc/resolv.conf").unwrap();
        conf.starts_with(MARK) && conf.contains("search home.internal renewed.lan")
    });
    eventually(&format!("new upstream ({})", text(&renewal)), || getent("renewed.example") == "203.0.113.9");
    all_names("renewed.example", "up.example");

    daemon.kill();
    eventually("put back", || !fs::read_to_string("/etc/resolv.conf").unwrap().starts_with(MARK));
    let mut after = files_in(Path::new("/etc"));
    let conf = after.remove("resolv.conf").unwrap();
    assert!(conf.ends_with("search renewed.lan\nnameserver 127.0.0.98\n"), "what the renewal wrote: {conf}");
    let mut before = before;
    before.remove("resolv.conf");
    assert_eq!(after, before, "nothing else in /etc");
}

// ---------------------------------------------------------------- the parts this binary plays

/// A test by name, so that it can be run again in another part.
struct Part(&'static str);

impl Part {
    /// The test itself; in another part this plays it and does not return.
    fn of(test: &'static str) -> Self {
        match env::var("HOST_DNS_PART").as_deref() {
            Ok("daemon") => play_daemon(test),
            Ok("supervisor") => {
                let (state, lease) =
                    (env::var("HOST_DNS_STATE").unwrap(), env::var("HOST_DNS_LEASE").unwrap());
                supervise(Path::new(&state), &lease, std::io::stdin()).unwrap();
                std::process::exit(0)
            }
            _ => Self(test),
        }
    }

    fn command(test: &str) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]);
        command
    }

    /// `Some` inside of private namespaces. Outside: runs the test there, fails if it failed.
    fn in_namespaces(&self) -> Option<()> {
        if env::var("HOST_DNS_INSIDE").is_ok() {
            return Some(());
        }
        let exe = env::current_exe().unwrap();
        let flags = ["--mount", "--net", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child"];
        let status = Command::new("unshare")
            .args(flags)
            .arg(exe)
            .args(["--exact", self.0, "--nocapture"])
            .env("HOST_DNS_INSIDE", "1")
            .status()
            .expect("this test needs unshare(1)");
        assert!(status.success(), "failed inside of its namespaces (it needs root): {status}");
        None
    }

    fn daemon(&self, root: &Path, state: &Path, resolver: &str) -> Daemon {
        let mut child = Self::command(self.0)
            .env("HOST_DNS_PART", "daemon")
            .env("HOST_DNS_ROOT", root)
            .env("HOST_DNS_STATE", state)
            .env("HOST_DNS_RESOLVER", resolver)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Daemon { child, lines }
    }

    /// See [`Self::kill_times`].
    fn kill_repeatedly<S: PartialEq + std::fmt::Debug>(
        &self,
        root: &Path,
        state: &Path,
        resolver: &str,
        look: impl Fn() -> S,
    ) -> Kills {
        self.kill_times(KILLS, root, state, resolver, look)
    }

    /// Starts the daemon and kills it so many times, at other moments each time. `look` must be after
    /// each kill what it was before the first.
    fn kill_times<S: PartialEq + std::fmt::Debug>(
        &self,
        times: u32,
        root: &Path,
        state: &Path,
        resolver: &str,
        look: impl Fn() -> S,
    ) -> Kills {
        let before = look();
        let mut kills = Kills::default();
        for n in 0..times {
            let mut daemon = self.daemon(root, state, resolver);
            if n % 4 == 0 {
                daemon.until_active();
                kills.active += 1;
            } else {
                thread::sleep(Duration::from_millis(u64::from(n * 37 % 101)));
            }
            let journal = state.join("host-dns.json");
            let recorded = journal.exists();
            daemon.kill();
            kills.all += 1;
            kills.recorded += u32::from(recorded || journal.exists());
            if n % 3 == 0 {
                // `meshd cleanup` at the same time as the supervisor.
                tokio::runtime::Runtime::new().unwrap().block_on(restore(state)).unwrap();
            }
            eventually("put back", || !journal.exists());
            eventually("as before", || look() == before);
            assert_eq!(look(), before, "kill {n}");
        }
        assert!(kills.recorded >= times / 4, "too few kills mattered: {kills:?}");
        kills
    }
}

#[derive(Debug, Default)]
struct Kills {
    all: u32,
    recorded: u32,
    active: u32,
}

impl Kills {
    fn print(&self, what: &str) {
        println!(
            "{what}: {} kills, {} of them when active, {} after something was recorded, 0 differences",
            self.all, self.active, self.recorded
        );
    }
}

struct Daemon {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Daemon {
    fn until_active(&mut self) {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if line.contains("through ") {
                return;
            }
            line.clear();
        }
        panic!("the daemon ended before it was active");
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `meshd run` does for the host's DNS, and nothing else.
fn play_daemon(test: &'static str) -> ! {
    let var = |name| env::var(name).unwrap();
    let (root, state) = (PathBuf::from(var("HOST_DNS_ROOT")), PathBuf::from(var("HOST_DNS_STATE")));
    let resolver: Ipv4Addr = var("HOST_DNS_RESOLVER").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let names = Arc::new(Names::default());
        names.set_map(&pi_map(), Scope::Full);
        let port = if resolver.is_loopback() { 0 } else { 53 };
        let listener = Listener { addr: (resolver, port).into(), ..Listener::own(resolver.into()) };
        let server = DnsServer::spawn(&[listener], Arc::clone(&names)).unwrap();
        let place = Place { root, state_dir: state.clone(), dns_port: server.addrs()[0].port() };
        let lease = format!("test-{}", std::process::id());
        let mut watcher = Part::command(test);
        watcher
            .env("HOST_DNS_PART", "supervisor")
            .env("HOST_DNS_STATE", &state)
            .env("HOST_DNS_LEASE", &lease);
        let _supervisor = Supervisor::spawn(watcher).unwrap();
        let (host_dns, mut handles) = HostDns::new(place, lease).await.unwrap();
        let interface = "mesh0";
        let index = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"));
        let desired = DnsDesired {
            interface: interface.into(),
            ifindex: index.map_or(0, |text| text.trim().parse().unwrap()),
            resolver: MeshAddrs { v4: resolver, v6: Ipv6Addr::LOCALHOST },
            search: vec!["home.internal".parse().unwrap()],
            routing: vec!["71.100.in-addr.arpa".parse().unwrap()],
            everything: false,
            probe: ("pi.home.internal".parse().unwrap(), PI),
        };
        let (_want, wanted) = watch::channel(Some(desired));
        let upstreams = |list: &[SocketAddr]| {
            names.set_upstreams(list.iter().map(|addr| Upstream { addr: *addr, mark: None }).collect());
        };
        upstreams(&handles.previous.borrow_and_update());
        let report = async {
            loop {
                tokio::select! {
                    Ok(()) = handles.status.changed() => {
                        let status = handles.status.borrow_and_update().clone();
                        println!("{status}");
                        assert!(!matches!(status, HostDnsStatus::Failed { .. }), "{status}");
                    }
                    Ok(()) = handles.previous.changed() => upstreams(&handles.previous.borrow_and_update()),
                    else => return,
                }
            }
        };
        tokio::join!(host_dns.run(wanted, CancellationToken::new()), report);
    });
    unreachable!("it is only ever killed")
}

fn pi_map() -> NetworkMap {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "pi".parse().unwrap(),
        addrs: MeshAddrs { v4: PI, v6: "fd7a:1:2::1".parse().unwrap() },
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

// ---------------------------------------------------------------- hosts in namespaces

/// Debian packages, unpacked.
struct Packages {
    dir: PathBuf,
}

impl Packages {
    fn fetch() -> Self {
        let names = ["systemd-resolved", "libsystemd-shared", "isc-dhcp-client", "openresolv"];
        Self::of("host-dns-packages-2", &names)
    }

    /// Those that can lie in one folder: two may have files of the same name.
    fn of(folder: &str, names: &[&str]) -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let dir = base.join("unpacked");
        // Inside of the namespaces there is no network, and it is there already.
        if env::var("HOST_DNS_INSIDE").is_err() {
            let _alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !dir.join("complete").exists() {
                fs::create_dir_all(&dir).unwrap();
                let fetched = Command::new("apt-get").arg("download").args(names).current_dir(&base).output();
                let fetched = fetched.expect("this test needs apt-get(8)");
                assert!(fetched.status.success(), "cannot fetch {names:?}: {}", text(&fetched));
                for package in fs::read_dir(&base).unwrap().map(|e| e.unwrap().path()) {
                    if package.extension().is_some_and(|e| e == "deb") {
                        let unpacked =
                            run("dpkg-deb", &["-x", package.to_str().unwrap(), dir.to_str().unwrap()]);
                        assert!(unpacked.status.success(), "{}", text(&unpacked));
                    }
                }
                fs::write(dir.join("complete"), "").unwrap();
            }
        }
        Self { dir }
    }
}

/// Two resolvers "outside", one known from the start and one from a renewal on.
struct Outside {
    _runtime: tokio::runtime::Runtime,
    _servers: Vec<DnsServer>,
}

impl Outside {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let servers =
            [("127.0.0.99", "up.example"), ("127.0.0.98", "renewed.example")].map(|(addr, name)| {
                let names = Arc::new(Names::default());
                let mut map = pi_map();
                map.upsert(Entry::Record(
                    name.parse().unwrap(),
                    RecordType::A,
                    RecordSet { ttl: 1, values: vec![RecordValue::Address(IpAddr::from([203, 0, 113, 9]))] },
                ));
                map.me.as_mut().unwrap().name = "outside".parse().unwrap();
                map.dns.config.as_mut().unwrap().domain = "outside.test".parse().unwrap();
                names.set_map(&map, Scope::Full);
                let addr: IpAddr = addr.parse().unwrap();
                let listener = Listener::own(addr);
                let _inside = runtime.enter();
                DnsServer::spawn(&[listener], names).unwrap()
            });
        Self { _runtime: runtime, _servers: servers.into() }
    }
}

/// A host of its own: own /etc, /run and links, a mesh interface with the resolver's address.
fn private_host() {
    let script = format!(
        "set -e
        mount --make-rprivate /
        mkdir -p /run/overlay-base && mount -t tmpfs tmpfs /run
        mkdir -p /run/o/up /run/o/work /run/dbus /run/systemd/resolve /run/lock
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/o/up,workdir=/run/o/work /etc
        mount -t sysfs sysfs /sys
        ip link set lo up
        ip link add mesh0 type veth peer name mesh0peer
        ip link set mesh0 up && ip link set mesh0peer up
        ip addr add {RESOLVER}/32 dev mesh0
        ip addr add 198.51.100.7/24 dev mesh0
        printf 'hosts: files dns\\n' > /etc/nsswitch.conf"
    );
    let done = run("sh", &["-c", &script]);
    assert!(done.status.success(), "{}", text(&done));
}

fn plain_host(resolv_conf: &str) -> Outside {
    private_host();
    fs::remove_file("/etc/resolv.conf").unwrap();
    fs::write("/etc/resolv.conf", resolv_conf).unwrap();
    Outside::start()
}

/// How many kills: the new ways in CI are tried less often, `make host-dns` tries all.
fn fewer_in_ci() -> u32 {
    if env::var_os("CI").is_some() { KILLS / 4 } else { KILLS }
}

/// A host whose resolv.conf openresolv makes, from what a DHCP client told it.
fn openresolv_host(packages: &Packages) -> Outside {
    private_host();
    let dir = packages.dir.display();
    let script = format!(
        "set -e
        mount -t overlay overlay -o lowerdir={dir}:/usr /usr
        cp {dir}/etc/resolvconf.conf /etc/
        rm -f /etc/resolv.conf
        resolvconf -I"
    );
    let done = run("sh", &["-c", &script]);
    assert!(done.status.success(), "{}", text(&done));
    tell_openresolv("search lan\nnameserver 127.0.0.99");
    Outside::start()
}

/// A host whose resolv.conf Debian's own resolvconf makes.
fn debian_resolvconf_host(packages: &Packages) -> Outside {
    private_host();
    let dir = packages.dir.display();
    let script = format!(
        "set -e
        mount -t overlay overlay -o lowerdir={dir}:/usr /usr
        rm -rf /etc/resolvconf && cp -r {dir}/etc/resolvconf /etc/
        mkdir -p /run/resolvconf/interface
        rm -f /etc/resolv.conf
        ln -s ../run/resolvconf/resolv.conf /etc/resolv.conf
        resolvconf --enable-updates
        resolvconf -u"
    );
    let done = run("sh", &["-c", &script]);
    assert!(done.status.success(), "{}", text(&done));
    tell_openresolv("search lan\nnameserver 127.0.0.99");
    Outside::start()
}

/// What a DHCP client would say of its interface.
fn tell_openresolv(conf: &str) {
    let line = format!("printf '{}\\n' | resolvconf -a eth0.dhcp", conf.replace('\n', "\\n"));
    let done = run("sh", &["-c", &line]);
    assert!(done.status.success(), "{}", text(&done));
}

/// A host with a system bus and systemd-resolved, which are this test's own processes.
struct ResolvedHost {
    tools: PathBuf,
    libraries: PathBuf,
    _outside: Outside,
    processes: Vec<Child>,
}

impl ResolvedHost {
    fn start(packages: &Packages) -> Self {
        private_host();
        let dir = &packages.dir;
        let script = format!(
            "set -e
            echo 'systemd-resolve:x:991:991::/:/usr/sbin/nologin' >> /etc/passwd
            echo 'systemd-resolve:x:991:' >> /etc/group
            if ! grep -q ^messagebus: /etc/passwd; then
                echo 'messagebus:x:992:992::/:/usr/sbin/nologin' >> /etc/passwd
                echo 'messagebus:x:992:' >> /etc/group
            fi
            mkdir -p /etc/dbus-1/system.d /etc/systemd
            cp {dir}/usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf /etc/dbus-1/system.d/
            printf '[Resolve]\\nDNS=127.0.0.99\\nFallbackDNS=\\nDNSSEC=no\\n' > /etc/systemd/resolved.conf
            chown 991:991 /run/systemd/resolve
            rm -f /etc/resolv.conf
            ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
            dir = dir.display()
        );
        let done = run("sh", &["-c", &script]);
        assert!(done.status.success(), "{}", text(&done));
        let mut libraries =
            fs::read_dir(dir.join("usr/lib")).unwrap().map(|e| e.unwrap().path().join("systemd"));
        let libraries = libraries.find(|d| d.is_dir()).unwrap();
        let quiet =
            |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let bus =
            quiet(Command::new("dbus-daemon").args(["--system", "--nofork", "--nopidfile", "--nosyslog"]));
        eventually("system bus", || Path::new("/run/dbus/system_bus_socket").exists());
        let resolved =
            quiet(Command::new(dir.join("lib/systemd/systemd-resolved")).env("LD_LIBRARY_PATH", &libraries));
        let host = Self {
            tools: dir.join("usr/bin/resolvectl"),
            libraries,
            _outside: Outside::start(),
            processes: vec![resolved, bus],
        };
        eventually("systemd-resolved", || getent("up.example") == "203.0.113.9");
        host
    }

    fn resolvectl(&self, args: &[&str]) -> String {
        let out =
            Command::new(&self.tools).args(args).env("LD_LIBRARY_PATH", &self.libraries).output().unwrap();
        text(&out)
    }

    /// All that systemd-resolved knows and writes.
    fn state(&self) -> BTreeMap<String, String> {
        let settings = ["dns", "domain", "default-route", "dnssec", "llmnr", "mdns", "dnsovertls", "nta"];
        let mut state: BTreeMap<_, _> =
            settings.map(|what| (what.to_owned(), self.resolvectl(&[what]))).into_iter().collect();
        for file in ["stub-resolv.conf", "resolv.conf"] {
            state.insert(
                file.into(),
                fs::read_to_string(Path::new("/run/systemd/resolve").join(file)).unwrap(),
            );
        }
        let link = fs::read_link("/etc/resolv.conf").unwrap();
        state.insert("link".into(), link.display().to_string());
        state
    }
}

impl Drop for ResolvedHost {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

// ---------------------------------------------------------------- small things

/// Name, kind, mode and content of every file directly in the directories of `root`'s etc (or `root`).
fn files_in(root: &Path) -> BTreeMap<String, String> {
    let dir = if root.ends_with("etc") { root.to_owned() } else { root.join("etc") };
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let describe = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        let content = fs::read(path).unwrap_or_default();
        format!("{:o}\n{}", meta.permissions().mode(), String::from_utf8_lossy(&content))
    };
    entries.map(|e| (e.file_name().into_string().unwrap(), describe(&e.path()))).collect()
}

/// A program that resolves names by musl, which reads resolv.conf in its own way: Alpine's libc.
fn musl_resolver() -> String {
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("resolve-by-musl-{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resolve.c");
    let made = run("musl-gcc", &["-static", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    program.to_str().unwrap().to_owned()
}

/// What glibc makes of a name: its IPv4 address, or nothing.
fn getent(name: &str) -> String {
    let out = run("getent", &["ahostsv4", name]);
    text(&out).split_whitespace().next().unwrap_or_default().to_owned()
}

fn ptr(host: &ResolvedHost, address: &str) -> String {
    let out = host.resolvectl(&["query", "--legend=no", address]);
    out.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap_or_else(|e| panic!("this test needs {program}: {e}"))
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[expect(clippy::disallowed_methods, reason = "a test that waits for other processes")]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(15), "not in 15 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
