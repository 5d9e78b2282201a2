//! Where ordered certificates and the account's key are kept.

use crate::tls::{Issued, certified};
use meshd_proto::gateway::{Certificate, GatewayConfig};
use meshd_proto::x509;
use rustls::sign::CertifiedKey;
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Certificates and keys in a folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The folder `acme` of the state folder.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("acme") }
    }

    /// The file of a certificate: the chain and behind it its key, so that both change at once.
    pub fn file(&self, name: &str) -> PathBuf {
        let plain: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .take(80)
            .collect();
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        self.folder.join(format!("{plain}-{:08x}.pem", hasher.finish() as u32))
    }

    /// The files of all certificates that `config` orders.
    pub fn files(&self, config: &GatewayConfig) -> Vec<PathBuf> {
        config.certificates.iter().filter(|c| c.acme).map(|c| self.file(&c.name)).collect()
    }

    /// The certificate that was ordered, when there is one for all the names.
    pub(super) fn held(&self, certificate: &Certificate) -> Option<Arc<CertifiedKey>> {
        let pem = fs::read(self.file(&certificate.name)).ok()?;
        let key = certified(&pem, &pem).ok()?;
        let names = x509::dns_names(key.cert.first()?);
        certificate.hostnames.iter().all(|n| names.iter().any(|held| held == n.as_str())).then_some(key)
    }

    /// When it has to be ordered again, since 1970: after two thirds of its life, less some jitter, so that
    /// many gateways do not ask in the same hour.
    pub(super) fn due(&self, certificate: &Certificate) -> Option<Duration> {
        let key = self.held(certificate)?;
        let leaf = key.cert.first()?;
        let (from, until) = x509::validity(leaf)?;
        let life = until.saturating_sub(from);
        let mut hasher = DefaultHasher::new();
        leaf.as_ref().hash(&mut hasher);
        let jitter = (life / 20).mul_f64((hasher.finish() >> 11) as f64 / (1u64 << 53) as f64);
        Some(until.saturating_sub(life / 3).saturating_sub(jitter))
    }

    /// Keeps a certificate.
    pub(super) fn keep(&self, name: &str, chain: &str, key: &str) -> io::Result<()> {
        self.write(&self.file(name), format!("{chain}\n{key}").as_bytes())
    }

    fn account_file(&self, directory: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        directory.hash(&mut hasher);
        self.folder.join(format!("account-{:016x}.json", hasher.finish()))
    }

    /// The account at the authority of `directory`.
    pub(super) fn account(&self, directory: &str) -> Option<Vec<u8>> {
        fs::read(self.account_file(directory)).ok()
    }

    /// Keeps the account.
    pub(super) fn keep_account(&self, directory: &str, credentials: &[u8]) -> io::Result<()> {
        self.write(&self.account_file(directory), credentials)
    }

    /// Whole or not at all, and for the owner alone.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    }
}

impl Issued for Store {
    fn certificate(&self, certificate: &Certificate) -> Option<Arc<CertifiedKey>> {
        self.held(certificate).or_else(|| StandIn.certificate(certificate))
    }
}

/// Self-made certificates, for as long as nothing better is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandIn;

impl Issued for StandIn {
    fn certificate(&self, certificate: &Certificate) -> Option<Arc<CertifiedKey>> {
        let names: Vec<String> = certificate.hostnames.iter().map(|n| n.as_str().to_owned()).collect();
        let key = rcgen::KeyPair::generate().ok()?;
        let made = rcgen::CertificateParams::new(names).ok()?.self_signed(&key).ok()?;
        certified(made.pem().as_bytes(), key.serialize_pem().as_bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_end_of_a_real_certificate_are_read() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut wanted =
            rcgen::CertificateParams::new(vec!["*.Example.com".into(), "b.example".into()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(2031, 3, 1);
        let certificate = wanted.self_signed(&key).unwrap();
        assert_eq!(x509::dns_names(certificate.der()), ["*.example.com", "b.example"]);
        assert_eq!(x509::not_after(certificate.der()), Some(Duration::from_secs(1_930_089_600)));
    }
}
