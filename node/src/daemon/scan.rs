//! The look for what other programs on this host do to the mesh, beside the daemon's loop: reading every
//! firewall's rules takes seconds on a busy host.
//!
//! One look at a time; what is asked meanwhile is looked at once, afterwards, as it was asked last.

use crate::os::conflicts::{self, Conflict, MeshUse};
use crate::os::{HostSettings, IfName};
use crate::settings::Settings;
use meshd_proto::localapi::Problem;
use meshd_proto::{MeshPrefixes, NetworkMap, Prefix};
use tokio::task::JoinSet;

/// What to look at.
#[derive(Clone, Debug)]
pub(super) struct Request {
    interface: IfName,
    prefixes: MeshPrefixes,
    offered: Vec<Prefix>,
    assisted: bool,
}

impl Request {
    /// What concerns this node; `None` while it is nobody in the mesh.
    pub(super) fn new(map: &NetworkMap, host: &HostSettings, settings: &Settings) -> Option<Self> {
        let me = map.me.as_ref()?;
        let mut offered = settings.advertise_routes.clone();
        if settings.advertise_exit_node {
            offered.extend([Prefix::DEFAULT_V4, Prefix::DEFAULT_V6]);
        }
        Some(Self {
            interface: host.interface.clone(),
            prefixes: me.prefixes,
            offered,
            assisted: host.firewall_assist,
        })
    }

    async fn look(self) -> Option<Vec<Problem>> {
        let used = MeshUse {
            interface: &self.interface,
            prefixes: &self.prefixes,
            offered: &self.offered,
            assisted: self.assisted,
        };
        let problem = |c: Conflict| Problem { what: c.what, why: c.why, help: c.help_command };
        match conflicts::conflicts(&used).await {
            Ok(list) => Some(list.into_iter().map(problem).collect()),
            Err(error) => {
                tracing::debug!(%error, "conflicts on this host cannot be looked for");
                None
            }
        }
    }
}

/// The looks. They end with this value.
#[derive(Debug, Default)]
pub(super) struct Scan {
    under_way: JoinSet<Option<Vec<Problem>>>,
    /// Somebody waits for the look under way.
    awaited: bool,
    /// What to look at next, and whether somebody waits for that.
    next: Option<(Request, bool)>,
}

impl Scan {
    /// Looks, now or once the present look is over. `awaited`: `up` is not done before.
    pub(super) fn start(&mut self, request: Request, awaited: bool) {
        if self.under_way.is_empty() {
            self.awaited = awaited;
            self.under_way.spawn(request.look());
        } else {
            let awaited = awaited || self.next.take().is_some_and(|(_, awaited)| awaited);
            self.next = Some((request, awaited));
        }
    }

    /// Whether somebody waits for what is not known yet.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited || matches!(self.next, Some((_, true)))
    }

    /// The result of a look, `None` inside when nothing could be seen. May be dropped while waiting.
    pub(super) async fn done(&mut self) -> Option<Vec<Problem>> {
        let Some(found) = self.under_way.join_next().await else {
            return std::future::pending().await;
        };
        self.awaited = false;
        if let Some((request, awaited)) = self.next.take() {
            self.start(request, awaited);
        }
        found.unwrap_or_else(|error| {
            tracing::error!(%error, "the look for conflicts broke");
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            interface: IfName::mesh0(),
            prefixes: MeshPrefixes {
                v4: "100.71.0.0/16".parse().unwrap(),
                v6: "fd7a:1:2::/48".parse().unwrap(),
            },
            offered: vec![],
            assisted: false,
        }
    }

    #[tokio::test]
    async fn asking_returns_at_once_and_many_questions_are_two_looks() {
        let mut scan = Scan::default();
        scan.start(request(), true);
        assert!(scan.is_awaited());
        for _ in 0..100 {
            scan.start(request(), false);
        }
        assert_eq!(scan.under_way.len(), 1);
        // Its result does not matter here: it may fail where there is no nft.
        scan.done().await;
        assert!(!scan.is_awaited(), "nobody waits for the second look");
        assert_eq!((scan.under_way.len(), scan.next.is_some()), (1, false));
        scan.done().await;
        assert!(scan.under_way.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_the_next_look_waits_past_the_present_one() {
        let mut scan = Scan::default();
        scan.start(request(), false);
        assert!(!scan.is_awaited());
        scan.start(request(), true);
        scan.start(request(), false);
        scan.done().await;
        assert!(scan.is_awaited());
        scan.done().await;
        assert!(!scan.is_awaited());
    }
}
