//! What differs in userspace mode: the device, and what runs on it in place of the host's programs.

use crate::config::DaemonConfig;
use crate::data::{Device, Snapshot};
use crate::tun::Tun;
use crate::userspace::{Netstack, NetstackThread, Service};
use meshd_dns::Names;
use meshd_proto::localapi::Failure;
use std::sync::Arc;
use std::time::Duration;

/// Time for the last packets of connections that end to leave.
const LAST_PACKETS: Duration = Duration::from_millis(20);

/// The host's side of the data threads: its queues.
pub(super) fn queues(config: &DaemonConfig) -> Result<(Vec<Device>, Option<NetstackThread>), Failure> {
    if let Some(userspace) = &config.userspace {
        let (stack, thread) = Netstack::start(config.mtu, userspace.limits)
            .map_err(|e| Failure::new(format!("cannot start the TCP/IP stack: {e}"), ""))?;
        return Ok((vec![Arc::new(stack)], Some(thread)));
    }
    let data = config.data;
    let tun = Tun::create(config.interface.as_str(), config.mtu, data.threads, data.tun_offload);
    let queues = tun.map_err(|e| Failure {
        message: e.to_string(),
        hint: "without privileges: meshd run --tun=userspace".to_owned(),
        exit_code: 71,
    })?;
    Ok((queues.into_iter().map(|queue| Arc::new(queue) as Device).collect(), None))
}

/// Proxies, forwards and streams over the stack.
pub(super) fn service(
    config: &DaemonConfig,
    stack: Option<NetstackThread>,
    snapshot: Arc<Snapshot>,
    names: Arc<Names>,
) -> Result<Option<Service>, Failure> {
    let (Some(userspace), Some(thread)) = (&config.userspace, stack) else { return Ok(None) };
    Service::start(userspace, thread, config.mtu, snapshot, names).map(Some)
}

/// Ends them while the data threads still run, so that peers hear of it.
pub(super) async fn end(service: Option<Service>) {
    if service.is_some() {
        drop(service);
        tokio::time::sleep(LAST_PACKETS).await;
    }
}
