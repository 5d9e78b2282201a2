//! The six commands: what each does, in which order.
//!
//! Order that keeps the books true whenever a process is killed: a reservation is on disk before the kernel
//! knows of it, and is freed after the kernel has forgotten it.

use crate::config::{Config, Input, PodNetwork, Version};
use crate::failure::{Code, Failure};
use crate::ledger::Exhausted;
use crate::net::PodSpace;
use crate::net::attach::{Plan, attach, detach};
use crate::net::check::check;
use crate::range::Ranges;
use crate::request::{Attachment, Request};
use crate::result::{add_result, already_there};
use crate::store::Store;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;

/// Runs `request`; what goes to standard output on success.
pub(crate) fn run(request: &Request, input: Input) -> Result<Option<Value>, Failure> {
    if *request == Request::Version {
        let supported = Version::ALL.map(Version::text);
        return Ok(Some(json!({ "cniVersion": input.version, "supportedVersions": supported })));
    }
    let config = Config::parse(input, request.command())?;
    match request {
        Request::Version => Ok(None),
        Request::Add { attachment, netns } => add(&config, attachment, netns).map(Some),
        Request::Del { attachment } => del(&config, attachment).map(|()| None),
        Request::Check { attachment, netns } => check_attachment(&config, attachment, netns).map(|()| None),
        Request::Status => status(&config).map(|()| None),
        Request::Gc => collect_garbage(&config).map(|()| None),
    }
}

fn add(config: &Config, attachment: &Attachment, netns: &Path) -> Result<Value, Failure> {
    let PodNetwork { ranges, mtu, dns } = config.pod_network()?;
    let before = config.prev_result()?;
    if before.as_ref().is_some_and(|b| b.in_pod(&attachment.interface).is_some()) {
        return Err(already_there(&attachment.interface, "prevResult lists it"));
    }
    let space = PodSpace::open(netns)?;
    let (addresses, held) = {
        let store = Store::open(&config.data_dir, &config.name)?;
        let mut ledger = store.load()?;
        let held = ledger.reservation(attachment).is_some();
        let addresses =
            ledger.reserve(attachment, &ranges).map_err(|e| exhausted(e, &ranges, Code::Exhausted))?;
        store.save(&ledger)?;
        (addresses, held)
    };
    let plan = Plan { network: &config.name, attachment, addresses: &addresses, mtu };
    match attach(&plan, &space) {
        Ok(attached) => {
            let pod = (&attachment.interface, space.path.as_str());
            Ok(add_result(config.version, before.as_ref(), &attached, pod, dns.as_ref()))
        }
        // The attachment of an earlier ADD keeps its addresses.
        Err(failure) if held && failure.code == Code::Exists => Err(failure),
        Err(failure) => {
            // The first error is the one to tell; the runtime's DEL tries again.
            let _ = free(config, attachment);
            Err(failure)
        }
    }
}

fn del(config: &Config, attachment: &Attachment) -> Result<(), Failure> {
    detach(&config.name, attachment)?;
    free(config, attachment)
}

fn free(config: &Config, attachment: &Attachment) -> Result<(), Failure> {
    let Some(store) = Store::open_existing(&config.data_dir, &config.name)? else { return Ok(()) };
    let mut ledger = store.load()?;
    if ledger.release(attachment) { store.save_freed(&ledger) } else { Ok(()) }
}

fn check_attachment(config: &Config, attachment: &Attachment, netns: &Path) -> Result<(), Failure> {
    let prev = config.prev_result()?.ok_or_else(|| {
        let details = "prevResult: CHECK needs the result of ADD; the runtime keeps and passes it";
        Failure::new(Code::InvalidConfiguration, "prevResult is missing", details)
    })?;
    let space = PodSpace::open(netns)?;
    let store = Store::open_existing(&config.data_dir, &config.name)?;
    let ledger = store.map(|s| s.load()).transpose()?.unwrap_or_default();
    let Some(reservation) = ledger.reservation(attachment) else {
        let details =
            format!("no address is reserved for {attachment}; remove the pod and let it be made again");
        return Err(Failure::new(Code::Different, "the pod's network is not as ADD left it", details));
    };
    check(&config.name, attachment, &reservation.addresses, &prev, &space)
}

/// `ADD` would find a place for its books, and a free address of each family.
fn status(config: &Config) -> Result<(), Failure> {
    let not_available = |f: Failure| Failure { code: Code::NotAvailable, ..f };
    let network = config.pod_network().map_err(not_available)?;
    let store = Store::open(&config.data_dir, &config.name).map_err(not_available)?;
    let ledger = store.load().map_err(not_available)?;
    match ledger.exhausted(&network.ranges) {
        None => Ok(()),
        Some(full) => Err(exhausted(full, &network.ranges, Code::NotAvailable)),
    }
}

/// Takes down what is not in the list; goes on after an error and tells the first one. The books are not
/// locked while the kernel takes its time for each interface: pods come and go meanwhile.
fn collect_garbage(config: &Config) -> Result<(), Failure> {
    let valid: HashSet<Attachment> = config.valid_attachments()?.into_iter().collect();
    let Some(store) = Store::open_existing(&config.data_dir, &config.name)? else { return Ok(()) };
    let ledger = store.load()?;
    drop(store);
    let held = ledger.reservations().iter().map(|r| &r.attachment);
    let mut first = Ok(());
    let mut gone = Vec::new();
    for attachment in held.filter(|attachment| !valid.contains(attachment)) {
        match detach(&config.name, attachment) {
            Ok(()) => gone.push(attachment),
            Err(failure) => first = first.and(Err(failure)),
        }
    }
    if gone.is_empty() {
        return first;
    }
    let store = Store::open(&config.data_dir, &config.name)?;
    let mut ledger = store.load()?;
    for attachment in gone {
        ledger.release(attachment);
    }
    store.save_freed(&ledger)?;
    first
}

fn exhausted(full: Exhausted, ranges: &Ranges, code: Code) -> Failure {
    let Exhausted(family) = full;
    let details = format!(
        "every {} address of {} is in use; add a CIDR to \"ranges\", or remove pods of this node",
        family.name(),
        ranges.shown(family)
    );
    Failure::new(code, "no free address", details)
}
