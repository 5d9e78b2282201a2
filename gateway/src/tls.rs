//! Certificates and keys for clients, trust for backends: what a configuration names, read and ready.
//!
//! Files are read when a configuration is applied and when they change. TLS of a listener is made anew then;
//! connections that stand keep theirs. Keys are never logged.

use crate::table::{Hosts, Pattern};
use meshd_proto::gateway::{
    BackendProtocol, BackendTls, Certificate, GatewayConfig, GatewayConfigError, JsonPath, Listener,
};
use meshd_proto::x509;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// Largest file with certificates or a key.
const MAX_PEM: u64 = 1 << 20;

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
static SYSTEM: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        let _ = store.add(certificate);
    }
    store
});

/// The crypto that everything here uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Everything that TLS needs under one configuration.
#[derive(Debug, Default)]
pub struct Material {
    /// TLS of `https` listeners by name.
    pub servers: HashMap<Arc<str>, Arc<ServerConfig>>,
    /// TLS towards backends by name.
    pub clients: HashMap<String, Arc<ClientConfig>>,
    /// The certificates by name.
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

/// Certificates that do not come from the configuration: ordered ones.
pub trait Issued: Send + Sync {
    /// The certificate that was ordered under `name`; a stand-in while there is none.
    fn certificate(&self, certificate: &Certificate) -> Option<Arc<CertifiedKey>>;
}

/// Nothing was ordered.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoneIssued;

impl Issued for NoneIssued {
    fn certificate(&self, _: &Certificate) -> Option<Arc<CertifiedKey>> {
        None
    }
}

impl Material {
    /// Reads what `config` names. What is the same as before is taken over from `previous`.
    ///
    /// # Errors
    /// Which file or text cannot be used, and why.
    pub fn load(
        config: &GatewayConfig,
        issued: &dyn Issued,
        previous: Option<&Self>,
    ) -> Result<Self, GatewayConfigError> {
        let mut certificates = HashMap::new();
        for (i, one) in config.certificates.iter().enumerate() {
            let fail = |what: String| {
                GatewayConfigError::wrong(
                    JsonPath::element("certificates", i),
                    what,
                    "give a PEM chain, leaf first, with its key",
                )
            };
            let key = match (&one.chain_file, &one.key_file, &one.chain_pem, &one.key_pem) {
                (Some(chain), Some(key), _, _) => {
                    certified(&read(chain).map_err(fail)?, &read(key).map_err(fail)?).map_err(fail)?
                }
                (_, _, Some(chain), Some(key)) => {
                    certified(chain.as_bytes(), key.as_bytes()).map_err(fail)?
                }
                _ => issued.certificate(one).ok_or_else(|| fail("there is no certificate yet".to_owned()))?,
            };
            let same =
                previous.and_then(|p| p.certificates.get(&one.name)).filter(|old| old.cert == key.cert);
            certificates.insert(one.name.clone(), same.map_or(key, Arc::clone));
        }
        let mut material = Self { certificates, ..Self::default() };
        for listener in config.listeners.iter().filter(|l| l.tls.is_some()) {
            let server = material.server(listener, config);
            material.servers.insert(listener.name.as_str().into(), server);
        }
        for (i, backend) in config.backends.iter().enumerate() {
            if let Some(tls) = &backend.tls {
                let client = client(tls, backend.protocol).map_err(|what| {
                    GatewayConfigError::wrong(
                        JsonPath::element("backends", i),
                        what,
                        "give PEM certificates to trust",
                    )
                })?;
                material.clients.insert(backend.name.clone(), client);
            }
        }
        Ok(material)
    }

    /// When each certificate ends, since 1970, in order of names.
    pub fn ends(&self) -> Vec<(&str, Duration)> {
        let end = |key: &CertifiedKey| key.cert.first().and_then(|leaf| x509::not_after(leaf));
        let mut ends: Vec<_> =
            self.certificates.iter().filter_map(|(name, key)| Some((name.as_str(), end(key)?))).collect();
        ends.sort();
        ends
    }

    fn server(&self, listener: &Listener, config: &GatewayConfig) -> Arc<ServerConfig> {
        let tls = listener.tls.clone().unwrap_or_default();
        let mut shown = Shown { by_name: Hosts::default(), default: None };
        let named = |name: &String| self.certificates.get(name);
        shown.default =
            tls.default_certificate.as_ref().or(tls.certificates.first()).and_then(named).cloned();
        for (name, key) in tls.certificates.iter().filter_map(|n| Some((n, named(n)?))) {
            let given = config
                .certificates
                .iter()
                .find(|c| c.name == *name)
                .map(|c| c.hostnames.as_slice())
                .unwrap_or_default();
            let names: Vec<Pattern> =
                if given.is_empty() { names_of(key) } else { given.iter().map(Pattern::of).collect() };
            for pattern in names {
                shown.by_name.entry(&pattern, || Arc::clone(key));
            }
        }
        server_config(Arc::new(shown), &[b"h2", b"http/1.1"])
    }
}

/// TLS that shows what `resolver` says, for `protocols`.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    if let Ok(ticketer) = ring::Ticketer::new() {
        config.ticketer = ticketer;
    }
    Arc::new(config)
}

/// The certificates of one listener.
#[derive(Debug)]
struct Shown {
    by_name: Hosts<Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        // A wildcard certificate holds one label (RFC 9525 §6.3): the first match decides all the same, a
        // client that is not content with it says so.
        name.and_then(|n| self.by_name.find(Some(&n)).next()).or(self.default.as_ref()).cloned()
    }
}

/// A chain and its key from PEM.
///
/// # Errors
/// What is wrong with it; never the key itself.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the chain cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("the chain holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key cannot be read".to_owned())?;
    CertifiedKey::from_der(chain, key, &PROVIDER)
        .map(Arc::new)
        .map_err(|error| format!("the key does not serve the certificate: {error}"))
}

/// The names in a certificate; a certificate with only a common name is for every name.
fn names_of(key: &CertifiedKey) -> Vec<Pattern> {
    let names = key.cert.first().map(|leaf| x509::dns_names(leaf)).unwrap_or_default();
    let parsed: Vec<Pattern> = names.iter().filter_map(|n| n.parse().ok()).map(|n| Pattern::of(&n)).collect();
    if parsed.is_empty() { vec![Pattern::Any] } else { parsed }
}

/// TLS towards a server that shows a certificate under those in `ca_file`, or under the system's.
///
/// # Errors
/// When the file cannot be used.
pub(crate) fn trust(ca_file: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let given = ca_file.map(read).transpose()?;
    client_config(given, BackendProtocol::Http1)
}

fn client(tls: &BackendTls, protocol: BackendProtocol) -> Result<Arc<ClientConfig>, String> {
    let given = match (&tls.ca_file, &tls.ca_pem) {
        (Some(file), _) => Some(read(file)?),
        (None, Some(pem)) => Some(pem.clone().into_bytes()),
        (None, None) => None,
    };
    client_config(given, protocol)
}

fn client_config(given: Option<Vec<u8>>, protocol: BackendProtocol) -> Result<Arc<ClientConfig>, String> {
    let roots = match given {
        None => SYSTEM.clone(),
        Some(pem) => {
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate =
                    certificate.map_err(|error| format!("a trusted certificate cannot be read: {error}"))?;
                store
                    .add(certificate)
                    .map_err(|error| format!("a trusted certificate cannot be used: {error}"))?;
            }
            store
        }
    };
    if roots.is_empty() {
        return Err("no certificate is trusted".to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![match protocol {
        BackendProtocol::Http1 => b"http/1.1".to_vec(),
        BackendProtocol::Http2 => b"h2".to_vec(),
    }];
    Ok(Arc::new(config))
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let size = fs::metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
    if size > MAX_PEM {
        return Err(format!("{path} has {size} bytes, more than {MAX_PEM}"));
    }
    fs::read(path).map_err(|error| format!("{path}: {error}"))
}

/// The files that `config` names, to be watched.
pub fn files(config: &GatewayConfig) -> Vec<String> {
    let certificates = config.certificates.iter().flat_map(|c| [c.chain_file.clone(), c.key_file.clone()]);
    let trusted = config.backends.iter().filter_map(|b| b.tls.as_ref()).map(|tls| tls.ca_file.clone());
    certificates.chain(trusted).flatten().collect()
}
