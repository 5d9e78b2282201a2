//! What an admin says about certificates by ACME.

use anyhow::{Result, ensure};
use meshd_proto::DnsName;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where certificates are ordered unless told otherwise.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How a name is proved to be ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
pub enum Challenge {
    /// On port 443, which must lead to this coordinator
    #[value(name = "tls-alpn-01")]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// On port 80
    #[value(name = "http-01")]
    #[serde(rename = "http-01")]
    Http01,
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        })
    }
}

/// Options of `serve` about certificates by ACME; each is also a key of the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AcmeOptions {
    /// Order a certificate for this name by ACME and renew it, so that browsers do not warn; you agree to
    /// the authority's terms. Its port 443 (or 80) must lead here. May be given several times
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert")]
    pub acme: Vec<DnsName>,
    /// The authority's directory [default: Let's Encrypt]
    #[arg(long, value_name = "URL", requires = "acme")]
    pub acme_directory: Option<String>,
    /// Mail address that the authority may write to; may be given several times
    #[arg(long, value_name = "MAIL", requires = "acme")]
    pub acme_contact: Vec<String>,
    /// Certificates in PEM that the authority's own is checked by [default: the system's]
    #[arg(long, value_name = "FILE", requires = "acme")]
    pub acme_ca: Option<PathBuf>,
    /// How the names are proved [default: tls-alpn-01 where machines outside reach port 443, else http-01]
    #[arg(long, value_name = "KIND", requires = "acme")]
    pub acme_challenge: Option<Challenge>,
    /// Where to listen while a name is proved by http-01 [default: port 80]
    #[arg(long, value_name = "ADDR:PORT", requires = "acme")]
    pub acme_http: Option<SocketAddr>,
}

impl AcmeOptions {
    /// Fills from the configuration file what the command line left open.
    pub(in crate::serve) fn or(self, file: Self) -> Self {
        let list = |mine: Vec<String>, other| if mine.is_empty() { other } else { mine };
        Self {
            acme: if self.acme.is_empty() { file.acme } else { self.acme },
            acme_directory: self.acme_directory.or(file.acme_directory),
            acme_contact: list(self.acme_contact, file.acme_contact),
            acme_ca: self.acme_ca.or(file.acme_ca),
            acme_challenge: self.acme_challenge.or(file.acme_challenge),
            acme_http: self.acme_http.or(file.acme_http),
        }
    }

    pub(super) fn directory(&self) -> Result<String> {
        let directory = self.acme_directory.clone().unwrap_or_else(|| DIRECTORY.to_owned());
        ensure!(directory.starts_with("https://"), "--acme-directory {directory}: it begins with https://");
        Ok(directory)
    }

    /// Whether the names can be certified at all, before anything is made by them.
    pub(in crate::serve) fn check(&self) -> Result<()> {
        for name in self.acme.iter().map(ToString::to_string) {
            ensure!(
                name.contains('.') && !name.ends_with(".internal") && !name.ends_with(".local"),
                "--acme {name}: no authority certifies this name; give one that the internet's DNS leads to this coordinator"
            );
        }
        self.directory().map(drop)
    }
}
