//! Where the ordered certificate and the account at the authority are kept: `acme/` of the state directory.

use crate::certificate::Issued;
use anyhow::{Context, Result};
use meshd_proto::{UnixSeconds, x509};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The chain and behind it its key, so that both change at once.
const CERTIFICATE: &str = "certificate.pem";

/// A folder that only its owner reads.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn new(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("acme");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The certificate that was ordered, when there is one for all the names.
    pub(super) fn certificate(&self, names: &[String]) -> Option<Issued> {
        let pem = fs::read(self.path.join(CERTIFICATE)).ok()?;
        let issued = issued(&pem).ok()?;
        names.iter().all(|name| issued.names.contains(name)).then_some(issued)
    }

    /// When it has to be ordered again: after two thirds of its life, less up to a twentieth, so that many
    /// coordinators do not ask in the same hour. `None`: there is none.
    pub(super) fn due(&self, names: &[String]) -> Option<UnixSeconds> {
        let kept = self.certificate(names)?;
        let leaf = kept.key.cert.first()?;
        let (from, until) = x509::validity(leaf)?;
        Some(due(from, until, Sha256::digest(leaf)[0]))
    }

    /// Keeps a certificate with its key.
    pub(super) fn keep(&self, chain: &str, key: &str) -> io::Result<()> {
        self.write(CERTIFICATE, format!("{chain}\n{key}").as_bytes())
    }

    /// The account at the authority of `directory`.
    pub(super) fn account(&self, directory: &str) -> Option<Vec<u8>> {
        fs::read(self.path.join(account_file(directory))).ok()
    }

    /// Keeps the account.
    pub(super) fn keep_account(&self, directory: &str, credentials: &[u8]) -> io::Result<()> {
        self.write(&account_file(directory), credentials)
    }

    /// Whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.path)?.sync_all()
    }
}

fn account_file(directory: &str) -> String {
    let hash = Sha256::digest(directory);
    format!("account-{}.json", hash[..8].iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// `spread`: 0 to 255, of a twentieth of the life.
fn due(from: Duration, until: Duration, spread: u8) -> UnixSeconds {
    let life = until.saturating_sub(from);
    let early = (life / 20).mul_f64(f64::from(spread) / 256.0);
    UnixSeconds(until.saturating_sub(life / 3).saturating_sub(early).as_secs())
}

/// A chain with its key in PEM, read and ready.
pub(super) fn issued(pem: &[u8]) -> Result<Issued, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the certificate is not valid PEM: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| format!("the key is not valid PEM: {e}"))?;
    let leaf = chain.first().ok_or("there is no certificate")?;
    let names = x509::dns_names(leaf);
    let ends = x509::not_after(leaf).ok_or("the certificate's end cannot be read")?;
    let key = any_supported_type(&key).map_err(|e| format!("the key cannot be used: {e}"))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|e| format!("certificate and key do not fit together: {e}"))?;
    Ok(Issued { names, key: Arc::new(key), ends: UnixSeconds(ends.as_secs()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_is_kept_for_its_names_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path()).unwrap();
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(folder.certificate(&names(&["a.example"])).is_none());
        let made = rcgen::generate_simple_self_signed(names(&["a.example", "b.example"])).unwrap();
        folder.keep(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap();
        assert!(folder.certificate(&names(&["b.example"])).is_some());
        assert!(folder.certificate(&names(&["b.example", "c.example"])).is_none(), "one name is new");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path().join("acme")), 0o700);
        assert_eq!(mode(dir.path().join("acme").join(CERTIFICATE)), 0o600);
        let other = rcgen::KeyPair::generate().unwrap();
        assert!(issued(format!("{}{}", made.cert.pem(), other.serialize_pem()).as_bytes()).is_err());
        fs::write(dir.path().join("acme").join(CERTIFICATE), "torn").unwrap();
        assert!(folder.certificate(&names(&["a.example"])).is_none());
    }

    #[test]
    fn it_is_due_after_two_thirds_of_its_life_or_a_little_earlier() {
        let day = |n: u64| Duration::from_secs(n * 86_400);
        assert_eq!(due(day(100), day(190), 0).0, 160 * 86_400);
        assert!((155 * 86_400..156 * 86_400).contains(&due(day(100), day(190), 255).0));
        assert_eq!(due(day(3), day(2), 9), UnixSeconds(2 * 86_400), "nonsense does not break it");
    }
}
