//! Certificates from a real ACME server, Debian's `pebble`, on loopback: both proofs, keys on disk, renewal.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod fixture;

use fixture::{PATIENCE, certificate, client, loopback, port};
use meshd_gateway::GatewayConfig;
use meshd_gateway::acme::{Orders, Store};
use meshd_gateway::dial::Dialers;
use meshd_gateway::log::AccessLog;
use meshd_gateway::runtime::Gateway;
use meshd_gateway::table::Reach;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(name: &str, args: &[String]) -> Program {
    let child = Command::new(name)
        .args(args)
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Program(child.unwrap_or_else(|e| panic!("{name}: {e}; it is in the Debian package pebble")))
}

/// A certificate authority that looks for HTTP-01 at `http` and for TLS-ALPN-01 at `tls`.
fn authority(folder: &Path, http: u16, tls: u16, seconds: u64) -> (Vec<Program>, String) {
    let (api, management, dns, dns_management) = (port(), port(), port(), port());
    let own = certificate(&["localhost"]);
    std::fs::write(folder.join("ca.pem"), &own.0).unwrap();
    std::fs::write(folder.join("ca.key"), &own.1).unwrap();
    let config = serde_json::json!({"pebble": {
        "listenAddress": format!("127.0.0.1:{api}"), "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": folder.join("ca.pem"), "privateKey": folder.join("ca.key"),
        "httpPort": http, "tlsPort": tls, "ocspResponderURL": "", "externalAccountBindingRequired": false,
        "certificateValidityPeriod": seconds,
    }});
    std::fs::write(folder.join("pebble.json"), config.to_string()).unwrap();
    let names =
        ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""];
    let mut resolver: Vec<String> = names.iter().map(|a| (*a).to_owned()).collect();
    resolver.extend([
        "-dns01".into(),
        format!("127.0.0.1:{dns}"),
        "-management".into(),
        format!("127.0.0.1:{dns_management}"),
    ]);
    let server = [
        "-config".to_owned(),
        folder.join("pebble.json").display().to_string(),
        "-dnsserver".to_owned(),
        format!("127.0.0.1:{dns}"),
    ];
    let programs = vec![program("pebble-challtestsrv", &resolver), program("pebble", &server)];
    (programs, format!("https://localhost:{api}/dir"))
}

async fn reachable(directory: &str) {
    let authority = directory.strip_prefix("https://localhost:").unwrap().strip_suffix("/dir").unwrap();
    let port: u16 = authority.parse().unwrap();
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(loopback(port)).await.is_err() {
        assert!(Instant::now() < end, "pebble does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The chain that is shown for `name`.
async fn shown(listen: u16, name: &str) -> Vec<u8> {
    let stream = TcpStream::connect(loopback(listen)).await.unwrap();
    let seen = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    // It is not verified here; what is compared are the bytes.
    let mut config = (**client(&[], &[]).config()).clone();
    config.dangerous().set_certificate_verifier(std::sync::Arc::new(Any));
    let tls =
        tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(seen, stream).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[derive(Debug)]
struct Any;

impl rustls::client::danger::ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        meshd_gateway::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Orders by `challenge` and waits for `times` certificates, one after the other.
async fn issued(challenge: &str, seconds: u64, times: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (http, tls) = (port(), port());
    let (_programs, directory) = authority(folder.path(), http, tls, seconds);
    reachable(&directory).await;
    let json = serde_json::json!({
        "generation": 1,
        "listeners": [
            {"name": "web", "address": "127.0.0.1", "port": http, "protocol": "http"},
            {"name": "tls", "address": "127.0.0.1", "port": tls, "protocol": "https", "tls": {"certificates": ["ordered"]}}],
        "certificates": [{"name": "ordered", "acme": true, "hostnames": ["a.example.com", "b.example.com"]}],
        "acme": {"directory": directory, "challenge": challenge, "ca_file": folder.path().join("ca.pem")},
    });
    let config = GatewayConfig::from_json(&json.to_string()).unwrap();
    let store = Store::new(folder.path());
    let mut gateway = Gateway::new(Dialers::host(), AccessLog::default(), Reach::HostAndMesh);
    gateway.apply(&config, &store).unwrap();
    let mut seen = vec![shown(tls, "a.example.com").await];
    let mut tasks = JoinSet::new();
    let _orders = Orders::start(&config, &store, gateway.shared(), &mut tasks);
    let file = store.file("ordered");
    let end = Instant::now() + Duration::from_secs(120);
    let mut last = Vec::new();
    while seen.len() <= times {
        assert!(Instant::now() < end, "{} certificates in time, {times} wanted", seen.len() - 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(now) = std::fs::read(&file) else { continue };
        if now != last {
            last = now;
            gateway.apply(&config, &store).unwrap();
            let fresh = shown(tls, "b.example.com").await;
            assert!(!seen.contains(&fresh), "another certificate is shown");
            seen.push(fresh);
        }
    }
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(gateway.shared().challenges.tls("a.example.com").is_none(), "no proof is left behind");
}

#[tokio::test]
async fn a_certificate_is_issued_by_http_01_and_renewed() {
    issued("http-01", 30, 2).await;
}

#[tokio::test]
async fn a_certificate_is_issued_by_tls_alpn_01() {
    issued("tls-alpn-01", 86_400 * 90, 1).await;
}
