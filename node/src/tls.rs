//! TLS towards servers whose certificates somebody of ours judges: rustls' own rules ask for an authority,
//! and neither the control channel nor a coordinator with a self-made certificate has one.
//!
//! It never lets a handshake pass whose signature is wrong: whatever is said of a certificate, its server
//! has proved that it holds the key.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::sync::Arc;

/// What a server shows of itself, and what is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The server's own certificate.
    pub certificate: &'a CertificateDer<'a>,
    /// What is to lead from it to an authority.
    pub chain: &'a [CertificateDer<'a>],
    /// Whom the client wants to reach.
    pub name: &'a ServerName<'a>,
    /// The authority's word that it is not revoked; may be empty.
    pub ocsp: &'a [u8],
    /// Wall-clock time, which a certificate has to fit.
    pub now: UnixTime,
}

/// Asks `F` about each certificate; an error refuses it.
struct Judge<F> {
    provider: Arc<CryptoProvider>,
    judge: F,
}

/// A client without a certificate of its own that accepts those servers for which `judge` has no error.
///
/// # Errors
/// When the cryptographic provider offers no version of TLS that is safe.
pub fn client<F>(judge: F) -> Result<ClientConfig, rustls::Error>
where
    F: Fn(Shown<'_>) -> Result<(), rustls::Error> + Send + Sync + 'static,
{
    let provider = Arc::new(ring::default_provider());
    Ok(ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Judge { provider, judge }))
        .with_no_client_auth())
}

impl<F> fmt::Debug for Judge<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").finish_non_exhaustive()
    }
}

impl<F> ServerCertVerifier for Judge<F>
where
    F: Fn(Shown<'_>) -> Result<(), rustls::Error> + Send + Sync,
{
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        (self.judge)(Shown { certificate, chain, name, ocsp, now }).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
