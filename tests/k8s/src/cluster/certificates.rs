//! A cluster's own certificate authority, and what it signs: the API server's certificate, client certificates that
//! name a user and its groups (as `kubeadm` gives them), and the key of ServiceAccount tokens.
//!
//! Everything is made anew for each cluster and dies with its lab.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// The authority of one cluster.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority; writes `ca.crt`, `ca.key`, `sa.key` and `sa.pub` to `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Authority> {
        let mut params = CertificateParams::default();
        params.distinguished_name = names("test cluster", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        write_private(&folder.join("ca.crt"), &issuer.pem())?;
        write_private(&folder.join("ca.key"), &issuer.key().serialize_pem())?;
        let tokens = KeyPair::generate()?;
        write_private(&folder.join("sa.key"), &tokens.serialize_pem())?;
        write_private(&folder.join("sa.pub"), &tokens.public_key_pem())?;
        Ok(Authority { issuer, folder: folder.to_owned() })
    }

    /// Writes `FILE.crt` and `FILE.key` of a TLS server.
    pub(crate) fn server(&self, file: &str, alternatives: Vec<String>) -> Result<()> {
        let mut params = CertificateParams::new(alternatives)?;
        params.distinguished_name = names(file, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (certificate, key) = self.sign(params)?;
        write_private(&self.folder.join(format!("{file}.crt")), &certificate)?;
        write_private(&self.folder.join(format!("{file}.key")), &key)
    }

    /// A kubeconfig for a user with groups, at `path`.
    pub(crate) fn kubeconfig(&self, path: &Path, server: &str, user: &str, groups: &[&str]) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name = names(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate, key) = self.sign(params)?;
        let encoded = |text: &str| STANDARD.encode(text);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": server, "certificate-authority-data": encoded(&self.issuer.pem()) } }],
            "users": [{ "name": "test", "user": {
                "client-certificate-data": encoded(&certificate), "client-key-data": encoded(&key) } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        write_private(path, &format!("{config:#}\n"))
    }

    fn sign(&self, mut params: CertificateParams) -> Result<(String, String)> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

/// Kubernetes takes the user from the common name and the group from the organisation.
fn names(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, user);
    for group in groups {
        names.push(DnType::OrganizationName, *group);
    }
    names
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
