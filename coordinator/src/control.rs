//! Placeholder until the module's owner writes it.

use crate::service::Service;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Placeholder.
pub async fn accept<S>(_io: S, _peer: SocketAddr, _service: Arc<Service>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    std::future::pending::<()>().await;
}
