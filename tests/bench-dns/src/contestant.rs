//! The servers that are compared: started with the same names, one thread for questions each, and what the
//! kernel says of them.

use crate::clock;
use crate::generator::is_up;
use crate::question::{NAMES, Names};
use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The processor of the server under test, and that of the generator (and of the upstream, which is idle
/// once the caches are warm).
pub(crate) const PROCESSORS: (usize, usize) = (1, 0);
/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Echo,
    Meshd,
    Nsd,
    Unbound,
    Dnsmasq,
}

impl Make {
    pub(crate) const ALL: [Self; 5] = [Self::Echo, Self::Meshd, Self::Nsd, Self::Unbound, Self::Dnsmasq];

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Echo => "bare echo",
            Self::Meshd => "meshd",
            Self::Nsd => "NSD",
            Self::Unbound => "unbound",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// Whether its replies are answers.
    pub(crate) fn checks(self) -> bool {
        self != Self::Echo
    }

    /// Whether it takes part: NSD keeps nothing of others.
    pub(crate) fn answers(self, names: Names) -> bool {
        self != Self::Nsd || names == Names::Mesh
    }

    /// The program, unless it is this one.
    const fn program(self) -> Option<&'static str> {
        match self {
            Self::Echo | Self::Meshd => None,
            Self::Nsd => Some("nsd"),
            Self::Unbound => Some("unbound"),
            Self::Dnsmasq => Some("dnsmasq"),
        }
    }
}

/// A server that runs. It ends with this value.
pub(crate) struct Contestant {
    pub(crate) make: Make,
    pub(crate) addr: SocketAddr,
    /// As it says itself.
    pub(crate) version: String,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Contestant {
    /// Starts one on a free port of loopback; `upstream` knows the names of [`Names::Cached`]. NSD without
    /// one is that upstream itself.
    pub(crate) fn start(make: Make, upstream: Option<SocketAddr>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let addr = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let names = if upstream.is_some() { Names::Mesh } else { Names::Cached };
        let mut command = match make.program() {
            None => Command::new(std::env::current_exe()?),
            Some(program) => Command::new(program),
        };
        match make {
            Make::Echo => command.args(["--echo", &addr.to_string()]),
            Make::Meshd => {
                let upstream = upstream.context("an upstream")?;
                command.args(["--names", &addr.to_string(), &upstream.to_string()])
            }
            Make::Nsd => command.arg("-d").arg("-c").arg(nsd(dir.path(), addr, names)?),
            Make::Unbound => {
                let conf = unbound(dir.path(), addr, upstream.context("an upstream")?)?;
                command.arg("-d").arg("-c").arg(conf)
            }
            Make::Dnsmasq => command.args(dnsmasq(dir.path(), addr, upstream.context("an upstream")?)?),
        };
        let log = fs::File::create(dir.path().join("output"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} is missing: .ci/setup installs it", make.title()))?;
        let this = Self { make, addr, version: version(make), child, _dir: dir };
        let until = clock::now() + START;
        while !is_up(addr, names)? {
            let said = fs::read_to_string(this._dir.path().join("output")).unwrap_or_default();
            ensure!(clock::now() < until, "{} does not answer: {said}", make.title());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all of its threads (and, of NSD, of the process that answers).
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut nanos = 0_u64;
        for id in family(self.id())? {
            for thread in fs::read_dir(format!("/proc/{id}/task"))? {
                let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
                nanos += stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()).context("schedstat")?;
            }
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// How long all its threads have run so far, and how long they could have but another program had the
    /// processor.
    pub(crate) fn scheduled(&self) -> Result<[Duration; 2]> {
        let mut total = [Duration::ZERO; 2];
        for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            for (sum, field) in total.iter_mut().zip(stat.split_whitespace()) {
                *sum += Duration::from_nanos(field.parse()?);
            }
        }
        Ok(total)
    }

    /// Memory in use now, and the most that ever was, in KiB.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Ok((field("VmRSS:").context("VmRSS")?, field("VmHWM:").context("VmHWM")?))
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        // NSD's own children end with it when it is asked, not when it is killed.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..50 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its children's children.
fn family(id: u32) -> Result<Vec<u32>> {
    let mut family = vec![id];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        at += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads {
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    Ok(family)
}

/// Keeps a process (`None`: this one) and its threads and children on one processor.
pub(crate) fn pin(id: Option<u32>, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    let Some(id) = id else {
        return sched_setaffinity(None, &set).context("this comparison needs two processors");
    };
    for id in family(id)? {
        for thread in fs::read_dir(format!("/proc/{id}/task"))? {
            let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
            // One that has ended meanwhile needs no place.
            let _ = sched_setaffinity(rustix::process::Pid::from_raw(thread), &set);
        }
    }
    Ok(())
}

fn version(make: Make) -> String {
    let said = match make {
        Make::Echo => return "recv_from, send_to".to_owned(),
        Make::Meshd => return env!("CARGO_PKG_VERSION").to_owned(),
        Make::Nsd => Command::new("nsd").arg("-v").output(),
        Make::Unbound => Command::new("unbound").arg("-V").output(),
        Make::Dnsmasq => Command::new("dnsmasq").arg("--version").output(),
    };
    let Ok(said) = said else { return "?".to_owned() };
    let text = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    let number = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
    number.unwrap_or("?").to_owned()
}

/// NSD's configuration, with a zone of all names.
fn nsd(dir: &Path, addr: SocketAddr, names: Names) -> Result<std::path::PathBuf> {
    let (origin, at) = (names.domain(), dir.display());
    let mut zone = format!(
        "$ORIGIN {origin}.\n$TTL 86400\n@ SOA ns hostmaster 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
    );
    for n in 0..NAMES {
        writeln!(zone, "{}. A {}", names.name(n), Ipv4Addr::from(names.address(n)))?;
    }
    fs::write(dir.join("zone"), zone)?;
    let conf = format!(
        "server:\n ip-address: {}@{}\n username: \"\"\n chroot: \"\"\n database: \"\"\n zonesdir: \"{at}\"\n \
         pidfile: \"{at}/pid\"\n logfile: \"{at}/log\"\n xfrdir: \"{at}\"\n xfrdfile: \"{at}/xfrd\"\n \
         zonelistfile: \"{at}/list\"\n cookie-secret-file: \"\"\n server-count: 1\n rrl-ratelimit: 0\n\
         remote-control:\n control-enable: no\nzone:\n name: \"{origin}.\"\n zonefile: \"zone\"\n",
        addr.ip(),
        addr.port()
    );
    let path = dir.join("conf");
    fs::write(&path, conf)?;
    Ok(path)
}

fn unbound(dir: &Path, addr: SocketAddr, upstream: SocketAddr) -> Result<std::path::PathBuf> {
    let mut conf = format!(
        "server:\n interface: {}\n port: {}\n do-daemonize: no\n chroot: \"\"\n username: \"\"\n directory: \"{}\"\n \
         pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n num-threads: 1\n do-not-query-localhost: no\n \
         module-config: \"iterator\"\n qname-minimisation: no\n msg-cache-size: 16m\n rrset-cache-size: 16m\n \
         local-zone: \"{}.\" static\n",
        addr.ip(),
        addr.port(),
        dir.display(),
        Names::Mesh.domain()
    );
    for n in 0..NAMES {
        let address = Ipv4Addr::from(Names::Mesh.address(n));
        writeln!(conf, " local-data: \"{}. 60 A {address}\"", Names::Mesh.name(n))?;
    }
    let (ip, port) = (upstream.ip(), upstream.port());
    write!(
        conf,
        "remote-control:\n control-enable: no\nforward-zone:\n name: \".\"\n forward-addr: {ip}@{port}\n"
    )?;
    let path = dir.join("conf");
    fs::write(&path, conf)?;
    Ok(path)
}

fn dnsmasq(dir: &Path, addr: SocketAddr, upstream: SocketAddr) -> Result<Vec<String>> {
    let mut conf = format!(
        "port={}\nlisten-address={}\nbind-interfaces\nno-resolv\nno-hosts\nno-negcache\ncache-size=10000\n\
         user=root\npid-file=\nlog-facility=-\nlocal=/{}/\nserver={}#{}\n",
        addr.port(),
        addr.ip(),
        Names::Mesh.domain(),
        upstream.ip(),
        upstream.port()
    );
    for n in 0..NAMES {
        writeln!(conf, "host-record={},{},60", Names::Mesh.name(n), Ipv4Addr::from(Names::Mesh.address(n)))?;
    }
    let path = dir.join("conf");
    fs::write(&path, conf)?;
    Ok(vec!["--keep-in-foreground".to_owned(), format!("--conf-file={}", path.display())])
}
