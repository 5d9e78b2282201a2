//! TLS that asks for no certificate in particular; why that is right is said in [`super`].

use crate::tls;
use meshd_relay::stream::BoxIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A TLS connection inside `io` with the server that is called `host`.
pub(super) async fn connect(io: BoxIo, host: &str) -> io::Result<TlsStream<BoxIo>> {
    static CONFIG: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let config = CONFIG.get_or_init(config).clone();
    let config = config.ok_or_else(|| io::Error::other("TLS cannot be set up"))?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, io).await
}

fn config() -> Option<Arc<ClientConfig>> {
    let mut config = tls::client(|_| Ok(())).ok()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}
