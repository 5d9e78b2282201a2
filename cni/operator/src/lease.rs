//! One leader at a time: a Lease (coordination.k8s.io/v1).
//!
//! [`Watch::decide`] is pure. It never compares another machine's clock with ours: a lease has ended when its
//! renewal was not seen to change for its duration. Writes carry the resource version that was read, so of
//! two who try at once one wins.

use crate::clock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use std::time::{Duration, Instant};

/// The Lease's name.
pub(crate) const NAME: &str = "meshd-operator";
/// How long a leader stays it without a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed, and looked at.
pub(crate) const RENEW: Duration = Duration::from_secs(4);
/// A leader that could not renew for so long stops, before another one may begin.
const GIVE_UP: Duration = Duration::from_secs(10);

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none: make it.
    Create,
    /// It is ours, or it has ended: write our name and the time.
    Take,
    /// Somebody else leads.
    Wait,
}

/// What was seen of the lease.
#[derive(Debug, Default)]
struct Watch {
    seen: Option<(Option<String>, Option<jiff::Timestamp>, Instant)>,
}

impl Watch {
    fn decide(&mut self, lease: Option<&LeaseSpec>, me: &str, now: Instant) -> Step {
        let Some(lease) = lease else { return Step::Create };
        let holder = lease.holder_identity.clone().filter(|h| !h.is_empty());
        let renewed = lease.renew_time.as_ref().map(|t| t.0);
        if self.seen.as_ref().is_none_or(|(h, r, _)| (h, r) != (&holder, &renewed)) {
            self.seen = Some((holder.clone(), renewed, now));
        }
        let Some(holder) = holder else { return Step::Take };
        if holder == me {
            return Step::Take;
        }
        let seconds = lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
        let duration = seconds.map_or(DURATION, Duration::from_secs);
        let since = self.seen.as_ref().map_or(now, |(_, _, since)| *since);
        if now.saturating_duration_since(since) >= duration { Step::Take } else { Step::Wait }
    }
}

/// Whether we lead.
#[derive(Debug)]
pub(crate) struct Election {
    leases: Api<Lease>,
    me: String,
    watch: Watch,
    renewed: Option<Instant>,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, me: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), me, watch: Watch::default(), renewed: None }
    }

    /// Whether we lead now. A renewal that has not come through for too long counts as lost.
    pub(crate) fn leads(&self) -> bool {
        self.renewed.is_some_and(|at| clock::now().saturating_duration_since(at) < GIVE_UP)
    }

    /// Looks at the lease and takes or renews it where that is our right.
    pub(crate) async fn step(&mut self) -> Result<(), kube::Error> {
        let found = self.leases.get_opt(NAME).await?;
        let now = clock::now();
        let step = self.watch.decide(found.as_ref().and_then(|l| l.spec.as_ref()), &self.me, now);
        let written = match (step, found) {
            (Step::Wait, _) => {
                self.renewed = None;
                return Ok(());
            }
            (Step::Take, Some(lease)) => {
                let old = lease.spec.clone().unwrap_or_default();
                let ours = old.holder_identity.as_deref() == Some(&self.me);
                let transitions = old.lease_transitions.unwrap_or_default() + i32::from(!ours);
                let acquired = old.acquire_time.filter(|_| ours);
                let spec = self.spec(acquired, transitions);
                let next = Lease { spec: Some(spec), ..lease };
                self.leases.replace(NAME, &PostParams::default(), &next).await
            }
            (Step::Create | Step::Take, _) => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.spec(None, 0)) };
                self.leases.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => {
                if self.renewed.is_none() {
                    tracing::info!(me = self.me, "this operator leads");
                }
                self.renewed = Some(now);
                Ok(())
            }
            // Somebody else was first.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.renewed = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lease up, so that the next leader need not wait.
    pub(crate) async fn release(&mut self) {
        if self.renewed.take().is_none() {
            return;
        }
        let Ok(Some(lease)) = self.leases.get_opt(NAME).await else { return };
        let mut spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() == Some(&self.me) {
            spec.holder_identity = None;
            let next = Lease { spec: Some(spec), ..lease };
            let _ = self.leases.replace(NAME, &PostParams::default(), &next).await;
        }
    }

    fn spec(&self, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(clock::timestamp());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &str, at: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.to_owned()),
            renew_time: Some(MicroTime(jiff::Timestamp::from_second(at).unwrap())),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_ends_when_its_renewal_stands_still_and_not_by_the_other_machines_clock() {
        let start = clock::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut watch = Watch::default();
        assert_eq!(watch.decide(None, "a", start), Step::Create);
        assert_eq!(watch.decide(Some(&held("b", 0)), "a", at(0)), Step::Wait, "of 1970, and seen just now");
        assert_eq!(watch.decide(Some(&held("b", 0)), "a", at(14)), Step::Wait);
        assert_eq!(watch.decide(Some(&held("b", 9)), "a", at(15)), Step::Wait, "renewed");
        assert_eq!(watch.decide(Some(&held("b", 9)), "a", at(29)), Step::Wait);
        assert_eq!(watch.decide(Some(&held("b", 9)), "a", at(30)), Step::Take);
        assert_eq!(watch.decide(Some(&held("a", 9)), "a", at(31)), Step::Take, "ours");
        assert_eq!(watch.decide(Some(&LeaseSpec::default()), "a", at(32)), Step::Take, "given up");
    }
}
