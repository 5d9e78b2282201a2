//! Carries out the plan, watches over it, gives it back.

use super::detect::{Detected, RESOLV_CONF, detect};
use super::files;
use super::journal::{Journal, ReplacedFile, SetLink, ToldOpenresolv, lock};
use super::openresolv::{FOLDERS, OpenresolvError, take_back, tell};
use super::pace::{Pace, SETTLE};
use super::plan::{DnsChange, DnsDesired, LinkDns, plan};
use super::resolv_conf::{ResolvConf, is_ours};
use super::resolved::{ResolvedError, set_link};
use super::undo::{RestoreError, restore, undo, undo_link};
use super::watch::FileWatch;
use crate::steps;
use meshd_dns::probe;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often everything is looked at without a reason.
const ROUTINE: Duration = Duration::from_secs(30);
/// How soon again when our resolver did not answer yet.
const RETRY: Duration = Duration::from_secs(1);
/// So many tries without an answer are no start-up any more.
const LASTING: u32 = 3;
/// How often the host's own way is tried after a switch; systemd-resolved needs a moment.
const PROBES: u32 = 5;
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// Where the host's files and our journal are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `/`, but in tests.
    pub root: PathBuf,
    /// The node's state directory.
    pub state_dir: PathBuf,
    /// 53, but in tests: where probes go.
    pub dns_port: u16,
}

impl Place {
    /// The real host.
    pub fn host(state_dir: impl Into<PathBuf>) -> Self {
        Self { root: PathBuf::from("/"), state_dir: state_dir.into(), dns_port: 53 }
    }
}

/// What is going on with the host's DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostDnsStatus {
    /// Nothing is set: not up, or not asked for.
    #[default]
    Off,
    /// The host asks us.
    Active {
        /// `/etc/resolv.conf`, `systemd-resolved`, `openresolv` or `resolvconf`.
        through: &'static str,
        /// How often somebody else's change was repaired.
        repairs: u64,
    },
    /// Our resolver answers, the host was not switched to it.
    NamesOnly {
        /// Why, and what to do.
        why: String,
    },
    /// Our resolver does not answer yet: nothing was switched.
    Waiting {
        /// What the probe saw.
        why: String,
        /// Whether it has been so for a while: something on this host is in the way.
        lasting: bool,
    },
    /// It did not work; the host is as it was, or the text says what is not.
    Failed {
        /// Why.
        why: String,
    },
}

impl fmt::Display for HostDnsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("not set"),
            Self::Active { through, repairs: 0 } => write!(f, "through {through}"),
            Self::Active { through, repairs } => write!(f, "through {through}, repaired {repairs} times"),
            Self::NamesOnly { why } => write!(f, "names only: {why}"),
            Self::Waiting { why, .. } => write!(f, "not switched yet: {why}"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}

/// Why the host's DNS could not be set.
#[derive(Debug, thiserror::Error)]
pub enum HostDnsError {
    /// A file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// systemd-resolved.
    #[error(transparent)]
    Resolved(#[from] ResolvedError),
    /// openresolv.
    #[error(transparent)]
    Openresolv(#[from] OpenresolvError),
    /// Setting failed, and so did putting back.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// What a running lease tells others.
#[derive(Clone, Debug)]
pub struct Handles {
    /// For `status`.
    pub status: watch::Receiver<HostDnsStatus>,
    /// The resolvers the host used before us, and would use without us; they change with DHCP.
    pub previous: watch::Receiver<Vec<SocketAddr>>,
}

/// The lease on the host's DNS.
#[derive(Debug)]
pub struct HostDns {
    place: Place,
    lease: String,
    /// What systemd-resolved was told last.
    link: Option<LinkDns>,
    held: bool,
    repairs: u64,
    /// How often in a row our resolver did not answer.
    silent: u32,
    /// Tells that something else is desired by now: then nothing is waited for.
    newer: Option<watch::Receiver<Option<DnsDesired>>>,
    status: watch::Sender<HostDnsStatus>,
    previous: watch::Sender<Vec<SocketAddr>>,
}

impl HostDns {
    /// Puts back what an earlier run left behind, and looks at the host. `lease` names this run.
    ///
    /// # Errors
    /// When the host's DNS is in a state that we made and cannot undo.
    pub async fn new(place: Place, lease: String) -> Result<(Self, Handles), HostDnsError> {
        let restored = restore(&place.state_dir).await?;
        if restored != super::Restored::default() {
            tracing::info!(?restored, "put back the host's DNS after a run that did not end cleanly");
        }
        let upstreams = detect(&place.root, None)?.upstreams(&place.root, &[]);
        let (status, status_rx) = watch::channel(HostDnsStatus::Off);
        let (previous, previous_rx) = watch::channel(upstreams);
        let this = Self {
            place,
            lease,
            link: None,
            held: false,
            repairs: 0,
            silent: 0,
            newer: None,
            status,
            previous,
        };
        Ok((this, Handles { status: status_rx, previous: previous_rx }))
    }

    /// The resolvers the host used before us.
    pub fn previous_resolvers(&self) -> Vec<SocketAddr> {
        self.previous.borrow().clone()
    }

    /// Keeps the host as `desired` says, `None` meaning as it was, until `shutdown`; then gives back.
    pub async fn run(
        mut self,
        mut desired: watch::Receiver<Option<DnsDesired>>,
        shutdown: CancellationToken,
    ) {
        let mut pace = Pace::default();
        let mut watch = match FileWatch::new(&self.place.root.join(RESOLV_CONF), &self.told_in()) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "changes to resolv.conf are only seen every 30 s");
                None
            }
        };
        loop {
            let want = desired.borrow_and_update().clone();
            self.newer = Some(desired.clone());
            let repairs = self.repairs;
            self.step(want.as_ref()).await;
            let (next, pause) = match &*self.status.borrow() {
                HostDnsStatus::Waiting { .. } => (RETRY, None),
                // Not at every write of somebody else's: each attempt switches and switches back.
                HostDnsStatus::Failed { .. } => (2 * ROUTINE, Some(2 * ROUTINE)),
                HostDnsStatus::Active { .. } if self.repairs > repairs => {
                    (ROUTINE, Some(pace.repaired(crate::clock::now())))
                }
                _ => (ROUTINE, None),
            };
            let changed = async {
                // Somebody who fights gets his way for a while, everybody else waits for nothing.
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
                tokio::time::sleep(SETTLE).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                gone = desired.changed() => if gone.is_err() { break },
                () = changed => (),
                () = tokio::time::sleep(next) => (),
            }
        }
        if let Err(error) = self.release().await {
            tracing::error!(%error, "the host's DNS was not put back");
        }
    }

    async fn step(&mut self, desired: Option<&DnsDesired>) {
        let result = match desired {
            Some(desired) => self.converge(desired).await,
            None => self.release().await.map(|()| HostDnsStatus::Off),
        };
        let status = result.unwrap_or_else(|error| {
            tracing::warn!(%error, "the host's DNS could not be set");
            HostDnsStatus::Failed { why: error.to_string() }
        });
        self.status.send_if_modified(|old| {
            let modified = *old != status;
            if modified {
                tracing::info!(%status, "host DNS");
                *old = status;
            }
            modified
        });
    }

    /// Brings the host to what is desired, from wherever it is. Doing it again changes nothing.
    ///
    /// # Errors
    /// When something cannot be read, recorded, set or put back.
    pub async fn converge(&mut self, desired: &DnsDesired) -> Result<HostDnsStatus, HostDnsError> {
        let state_dir = self.place.state_dir.clone();
        let lock = lock(&state_dir).await?;
        let mut journal = Journal::load(&state_dir)?;
        let kept = journal.as_ref().and_then(|j| j.resolv_conf.as_ref()).map(|r| r.original.clone());
        let detected = detect(&self.place.root, kept.as_ref())?;
        self.note_previous(&detected, desired);
        self.leave_other_ways(&detected, &mut journal).await?;

        let through = match &detected {
            Detected::Plain { .. } => "/etc/resolv.conf",
            Detected::Resolved { .. } => "systemd-resolved",
            Detected::Openresolv(found) => found.name(),
            Detected::Foreign { manager, target, .. } => {
                let resolver = desired.resolver.v4;
                return Ok(HostDnsStatus::NamesOnly {
                    why: format!(
                        "/etc/resolv.conf is a link to {} and belongs to {manager}; make {manager} use {resolver} \
                         as first resolver, or ask it by `dig @{resolver}`",
                        target.display()
                    ),
                });
            }
        };
        let active = |repairs| HostDnsStatus::Active { through, repairs };
        let changes = plan(&detected, desired);
        let already =
            changes.iter().all(|c| matches!(c, DnsChange::SetLink(link) if self.link.as_ref() == Some(link)));
        if already && (changes.is_empty() || self.probe_host(desired).await.is_ok()) {
            self.held = true;
            return Ok(active(self.repairs));
        }
        let server = SocketAddr::new(desired.resolver.v4.into(), self.place.dns_port);
        if let Err(why) = self.probe(server, desired).await {
            self.silent = self.silent.saturating_add(1);
            return Ok(HostDnsStatus::Waiting { why, lasting: self.silent >= LASTING });
        }
        self.silent = 0;
        let repair = self.held;
        for change in &changes {
            self.apply(change, &detected, &mut journal, &lock).await?;
        }
        if let Err(why) = self.probe_host(desired).await {
            let superseded = self.newer.as_ref().is_some_and(|newer| newer.has_changed().unwrap_or(true));
            if !superseded {
                tracing::warn!(why, "the host does not reach our resolver: putting its DNS back");
            }
            if let Some(journal) = &journal {
                undo(journal).await?;
            }
            Journal::clear(&state_dir)?;
            (self.held, self.link) = (false, None);
            return Ok(HostDnsStatus::Failed { why: format!("{why}; the host's DNS is as it was") });
        }
        self.held = true;
        self.repairs += u64::from(repair);
        Ok(active(self.repairs))
    }

    /// Where resolvconf, of whichever make, keeps what it was told.
    fn told_in(&self) -> PathBuf {
        let folders = FOLDERS.map(|folder| self.place.root.join(folder));
        let [first, second] = folders;
        if second.is_dir() && !first.is_dir() { second } else { first }
    }

    /// Gives the host's DNS back.
    ///
    /// # Errors
    /// When it cannot be put back; the journal stays.
    pub async fn release(&mut self) -> Result<(), HostDnsError> {
        restore(&self.place.state_dir).await?;
        (self.held, self.link, self.repairs) = (false, None, 0);
        Ok(())
    }

    /// Records, then does.
    async fn apply(
        &mut self,
        change: &DnsChange,
        detected: &Detected,
        journal: &mut Option<Journal>,
        lock: &File,
    ) -> Result<(), HostDnsError> {
        steps::before("record the host's DNS");
        let entry = journal.get_or_insert_with(|| Journal {
            lease: String::new(),
            root: self.place.root.clone(),
            resolv_conf: None,
            link: None,
            openresolv: None,
        });
        entry.lease.clone_from(&self.lease);
        match change {
            DnsChange::WriteResolvConf { content, original } => {
                entry.resolv_conf =
                    Some(ReplacedFile { original: original.clone(), written: content.clone() });
                entry.store(&self.place.state_dir)?;
                let path = self.place.root.join(RESOLV_CONF);
                // Somebody was faster: look again rather than lose what he wrote.
                match detected {
                    Detected::Plain { current, .. } if files::read(&path)? != *current => {
                        return Err(io::Error::other("/etc/resolv.conf changed at this moment").into());
                    }
                    _ => {
                        steps::before("write resolv.conf");
                        files::write(&path, content)?;
                        steps::after("write resolv.conf");
                    }
                }
            }
            DnsChange::SetLink(link) => {
                entry.link = Some(SetLink { interface: link.interface.clone(), ifindex: link.ifindex });
                entry.store(&self.place.state_dir)?;
                self.link = None;
                steps::before("set the link's DNS");
                set_link(&self.place.root, link).await?;
                steps::after("set the link's DNS");
                self.link = Some(link.clone());
            }
            DnsChange::TellOpenresolv { program, told } => {
                let entry_of_ours = ToldOpenresolv { program: program.clone(), entry: told.entry.clone() };
                entry.openresolv = Some(entry_of_ours);
                entry.store(&self.place.state_dir)?;
                steps::before("tell openresolv");
                tell(program, told, lock).await?;
                steps::after("tell openresolv");
            }
        }
        Ok(())
    }

    /// When the host has begun to resolve names in another way, what we did in the old way is undone,
    /// or forgotten where somebody has replaced it.
    async fn leave_other_ways(
        &mut self,
        detected: &Detected,
        journal: &mut Option<Journal>,
    ) -> Result<(), HostDnsError> {
        let Some(entry) = journal else { return Ok(()) };
        let stale_file = !matches!(detected, Detected::Plain { .. }) && entry.resolv_conf.is_some();
        let stale_link = !matches!(detected, Detected::Resolved { .. }) && entry.link.is_some();
        if stale_file {
            entry.resolv_conf = None;
        }
        if stale_link {
            if let Some(link) = entry.link.take() {
                undo_link(&self.place.root, &link).await?;
            }
            self.link = None;
        }
        let stale_entry = !matches!(detected, Detected::Openresolv(_)) && entry.openresolv.is_some();
        if stale_entry && let Some(told) = entry.openresolv.take() {
            take_back(&told.program, &told.entry).await?;
        }
        if !(stale_file || stale_link || stale_entry) {
            return Ok(());
        }
        self.held = false;
        if entry.resolv_conf.is_none() && entry.link.is_none() && entry.openresolv.is_none() {
            *journal = None;
            Journal::clear(&self.place.state_dir)?;
        } else {
            entry.store(&self.place.state_dir)?;
        }
        Ok(())
    }

    fn note_previous(&self, detected: &Detected, desired: &DnsDesired) {
        let ours: Vec<IpAddr> = desired.resolver.iter().collect();
        let now = detected.upstreams(&self.place.root, &ours);
        // A file that is gone for a moment is no reason to know no resolver.
        if !now.is_empty() {
            self.previous.send_if_modified(|old| {
                let modified = *old != now;
                *old = now;
                modified
            });
        }
    }

    /// The way libc goes: the first server of /etc/resolv.conf, link or not.
    async fn probe_host(&self, desired: &DnsDesired) -> Result<(), String> {
        let path = self.place.root.join(RESOLV_CONF);
        let bytes = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let first = ResolvConf::parse(&bytes).servers.first().map(|(ip, _)| *ip);
        let server = first.ok_or_else(|| format!("{} names no resolver", path.display()))?;
        debug_assert!(!is_ours(&bytes) || desired.resolver.contains(server));
        let tries = async {
            let mut last = String::new();
            for attempt in 0..PROBES {
                if attempt > 0 {
                    tokio::time::sleep(PROBE_PAUSE).await;
                }
                match self.probe(SocketAddr::new(server, self.place.dns_port), desired).await {
                    Ok(()) => return Ok(()),
                    Err(why) => last = why,
                }
            }
            Err(last)
        };
        // Until it is put back, the host asks a resolver that may be gone for good.
        let superseded = async {
            match self.newer.clone() {
                Some(mut newer) => drop(newer.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            found = tries => found,
            () = superseded => Err("something else was asked for meanwhile".to_owned()),
        }
    }

    async fn probe(&self, server: SocketAddr, desired: &DnsDesired) -> Result<(), String> {
        let (name, expected) = &desired.probe;
        match probe::addresses(server, name).await {
            Ok(found) if found.contains(expected) => Ok(()),
            Ok(found) => Err(format!("{server} says that {name} is {found:?}, not {expected}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
