//! Who asks: root by the unix socket's peer credentials, others by bearer token over TLS or loopback.

use super::{Api, Problem};
use crate::clock;
use crate::service::Actor;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How a request came in. Put on every request by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The unix socket, with the peer's user id.
    Unix {
        /// From the socket's peer credentials.
        uid: u32,
    },
    /// TLS.
    Tls(SocketAddr),
    /// Plain HTTP.
    Plain(SocketAddr),
}

impl Transport {
    /// The other end of the connection; the unix socket counts as this host.
    pub(super) fn remote(self) -> IpAddr {
        match self {
            Self::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::Tls(peer) | Self::Plain(peer) => peer.ip().to_canonical(),
        }
    }

    /// Whether secrets may travel on it.
    pub(super) fn is_private(self) -> bool {
        match self {
            Self::Unix { .. } | Self::Tls(_) => true,
            Self::Plain(peer) => peer.ip().to_canonical().is_loopback(),
        }
    }
}

pub(super) async fn authenticate(
    State(api): State<Api>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let transport = request.extensions().get::<Transport>().copied();
    let transport =
        transport.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no transport is known"))?;
    let actor = match transport {
        Transport::Unix { uid } => local(uid)?,
        Transport::Tls(_) | Transport::Plain(_) => {
            bearer(&api, request.headers().get(header::AUTHORIZATION).cloned()).await?
        }
    };
    request.extensions_mut().insert(actor);
    Ok(next.run(request).await)
}

/// Root, and the user that runs the coordinator, own it.
fn local(uid: u32) -> Result<Actor, Problem> {
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return Ok(Actor::LocalRoot);
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "only root may administer the coordinator here")
        .hint("run the command with sudo, or use the API with a token"))
}

async fn bearer(api: &Api, header: Option<HeaderValue>) -> Result<Actor, Problem> {
    let wanted = || {
        Problem::new(StatusCode::UNAUTHORIZED, "an API token is needed, and this request has none that is valid").hint(
            "make one with `meshd-coordinator api-token create NAME --role ROLE` and send it as `Authorization: Bearer …`",
        )
    };
    let value = header.as_ref().and_then(|v| v.to_str().ok());
    let secret =
        value.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, secret) = secret.ok_or_else(wanted)?;
    api.service.authenticate(secret.trim(), clock::unix_now()).await?.ok_or_else(wanted)
}
