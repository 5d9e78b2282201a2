//! The own certificate: an admin's files, or a self-made one kept in the state directory.
//!
//! Nodes do not depend on it: their trust is the coordinator's key in the join token. It is for the API
//! and for people, who compare its fingerprint.

use super::ServeOptions;
use super::outside::Outside;
use crate::certificate::{ALPN_PROOF, Certificates, Made};
use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The own certificate, ready to be shown; its fingerprint is the SHA-256 that browsers and openssl show.
pub(super) fn prepare(options: &ServeOptions, state_dir: &Path, outside: &Outside) -> Result<Certificates> {
    let ((cert, key), made) = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => ((read(cert)?, read(key)?), Made::Files),
        _ => (self_made(state_dir, outside)?, Made::Here),
    };
    let chain = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<Vec<_>, _>>()
        .context("the TLS certificate is not valid PEM")?;
    let first = chain.first().context("the TLS certificate file holds no certificate")?;
    let fingerprint = colons(&Sha256::digest(first));
    let key = PrivateKeyDer::from_pem_slice(&key).context("the TLS key is not valid PEM")?;
    let key = any_supported_type(&key).context("the TLS key cannot be used")?;
    let own = CertifiedKey::new(chain, key);
    own.keys_match().context("TLS certificate and key do not fit together")?;
    Ok(Certificates::new(Arc::new(own), fingerprint, made))
}

/// Serves TLS with whatever certificate is to be shown at the time.
pub(super) fn acceptor(certificates: &Arc<Certificates>) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        .with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec(), ALPN_PROOF.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The kept certificate, or a new one. It stays when addresses change: its fingerprint is what counts.
fn self_made(dir: &Path, outside: &Outside) -> Result<(Vec<u8>, Vec<u8>)> {
    let (cert_path, key_path) = (dir.join("tls-cert.pem"), dir.join("tls-key.pem"));
    if let (Ok(cert), Ok(key)) = (fs::read(&cert_path), fs::read(&key_path)) {
        return Ok((cert, key));
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(outside.hosts.iter().cloned());
    names.dedup();
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a TLS certificate")?;
    let (cert, key) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    write_private(&key_path, &key)?;
    write_private(&cert_path, &cert)?;
    Ok((cert, key))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn colons(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}
