//! systemd-resolved over D-Bus: one connection for each call, since a call is rare and a connection
//! that outlives a restart of the bus is not worth keeping.

use super::plan::LinkDns;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use zbus::Connection;
use zbus::connection::Builder;

const SERVICE: &str = "org.freedesktop.resolve1";
const OBJECT: &str = "/org/freedesktop/resolve1";
const MANAGER: &str = "org.freedesktop.resolve1.Manager";
const BUS: &str = "run/dbus/system_bus_socket";
const TIMEOUT: Duration = Duration::from_secs(5);
/// `AF_INET` and `AF_INET6`, which D-Bus carries as numbers.
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// systemd-resolved did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// It refused, or is not there.
    #[error("systemd-resolved refuses {call}: {source}")]
    Call {
        /// The D-Bus method.
        call: &'static str,
        /// Its error.
        source: zbus::Error,
    },
    /// The bus cannot be reached.
    #[error("the system bus cannot be reached: {0}")]
    Bus(zbus::Error),
    /// It does not answer.
    #[error("systemd-resolved does not answer within 5 s")]
    Late,
}

/// Sets a link. Doing it again changes nothing.
///
/// # Errors
/// When one of the settings is refused; earlier ones stay, [`revert_link`] removes them.
pub(super) async fn set_link(root: &Path, link: &LinkDns) -> Result<(), ResolvedError> {
    let index = link.ifindex.cast_signed();
    let servers: Vec<(i32, Vec<u8>)> = link.servers.iter().map(|ip| family_and_bytes(*ip)).collect();
    let work = async {
        let bus = connect(root).await?;
        call(&bus, "SetLinkDNS", &(index, servers)).await?;
        call(&bus, "SetLinkDomains", &(index, &link.domains)).await?;
        call(&bus, "SetLinkDefaultRoute", &(index, link.default_route)).await?;
        // Our zone is private and unsigned, and neither protocol makes sense on this link. Old
        // versions without these settings do without.
        for (method, value) in
            [("SetLinkDNSSEC", "no"), ("SetLinkLLMNR", "no"), ("SetLinkMulticastDNS", "no")]
        {
            if let Err(error) = call(&bus, method, &(index, value)).await {
                tracing::debug!(%error, "left as it is");
            }
        }
        Ok(())
    };
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(ResolvedError::Late))
}

/// Takes back all settings of a link. A link that is gone, and a systemd-resolved that does not run,
/// have none.
///
/// # Errors
/// When it refuses for another reason.
pub(super) async fn revert_link(root: &Path, ifindex: u32) -> Result<(), ResolvedError> {
    let work = async {
        let bus = match connect(root).await {
            Ok(bus) => bus,
            Err(error) => {
                tracing::debug!(%error, "nothing to revert");
                return Ok(());
            }
        };
        match call(&bus, "RevertLink", &(ifindex.cast_signed(),)).await {
            Err(ResolvedError::Call { source: zbus::Error::MethodError(name, _, _), .. })
                if name.ends_with(".NoSuchLink")
                    || name.ends_with(".ServiceUnknown")
                    || name.ends_with(".NameHasNoOwner") =>
            {
                Ok(())
            }
            other => other,
        }
    };
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(ResolvedError::Late))
}

async fn connect(root: &Path) -> Result<Connection, ResolvedError> {
    let address = format!("unix:path={}", root.join(BUS).display());
    Builder::address(address.as_str()).build().await.map_err(ResolvedError::Bus)
}

async fn call<B>(bus: &Connection, method: &'static str, body: &B) -> Result<(), ResolvedError>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    let reply = bus.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body).await;
    reply.map(drop).map_err(|source| ResolvedError::Call { call: method, source })
}

fn family_and_bytes(ip: IpAddr) -> (i32, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}
