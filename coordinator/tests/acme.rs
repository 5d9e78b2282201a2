//! Certificates by ACME with the program itself and a real authority, Debian's `pebble`, on loopback: ordered,
//! kept, renewed under open connections, and what happens while the authority is away.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshd-coordinator");
const NAME: &str = "vpn.example.com";
/// For a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// Ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn begun() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test that waits for other programs")]
    Instant::now()
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = begun();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come in time");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A certificate authority that is not there yet.
struct Authority {
    folder: PathBuf,
    api: u16,
    management: u16,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("ca.pem"), own.cert.pem()).unwrap();
        std::fs::write(folder.join("ca.key"), own.signing_key.serialize_pem()).unwrap();
        Self { folder: folder.to_owned(), api: port(), management: port() }
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.api)
    }

    fn ca(&self) -> String {
        self.folder.join("ca.pem").display().to_string()
    }

    /// Starts it: it looks for HTTP-01 at `http`, for TLS-ALPN-01 at `tls`, and issues for so many seconds.
    fn start(&self, http: u16, tls: u16, seconds: u64) -> [Program; 2] {
        let (dns, dns_management) = (port(), port());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.api),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.ca(), "privateKey": self.folder.join("ca.key"),
            "httpPort": http, "tlsPort": tls, "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "certificateValidityPeriod": seconds,
        }});
        let file = self.folder.join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let resolver = format!(
            "-defaultIPv4 127.0.0.1 -defaultIPv6= -http01= -https01= -tlsalpn01= -dns01 127.0.0.1:{dns} \
             -management 127.0.0.1:{dns_management}"
        );
        let server = format!("-config {} -dnsserver 127.0.0.1:{dns}", file.display());
        let programs = [run("pebble-challtestsrv", &resolver), run("pebble", &server)];
        until("pebble", || TcpStream::connect(("127.0.0.1", self.api)).ok());
        programs
    }

    /// The root that its certificates lead to.
    fn root(&self) -> CertificateDer<'static> {
        let mut stream = tls(self.management, "localhost", &trusting(&self.ca()));
        let answer = ask(&mut stream, "GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n");
        CertificateDer::from_pem_slice(answer.as_bytes()).unwrap()
    }
}

fn run(name: &str, args: &str) -> Program {
    let child = Command::new(name)
        .args(args.split_whitespace())
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Program(child.unwrap_or_else(|e| panic!("{name}: {e}; it is in the Debian package pebble")))
}

/// A coordinator that orders a certificate.
struct Coordinator {
    program: Program,
    dir: PathBuf,
    own: String,
}

impl Coordinator {
    fn start(dir: &Path, listen: u16, authority: &Authority, more: &[&str]) -> Self {
        let mut program = Program(
            Command::new(PROGRAM)
                .env("MESHD_COORDINATOR_SOCKET", dir.join("api.sock"))
                .env_remove("JOURNAL_STREAM")
                .args([
                    "serve",
                    "--json",
                    "--no-relay",
                    "--listen",
                    &format!("127.0.0.1:{listen}"),
                    "--acme",
                    NAME,
                ])
                .args([
                    "--acme-directory",
                    &authority.directory(),
                    "--acme-ca",
                    &authority.ca(),
                    "--state-dir",
                ])
                .arg(dir.join("state"))
                .args(more)
                .stdout(Stdio::piped())
                .stderr(std::fs::File::create(dir.join("log")).unwrap())
                .spawn()
                .unwrap(),
        );
        let mut line = String::new();
        BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { program, dir: dir.to_owned(), own: ready["certificate_sha256"].as_str().unwrap().to_owned() }
    }

    fn status(&self, json: bool) -> String {
        let mut command = Command::new(PROGRAM);
        command.env("MESHD_COORDINATOR_SOCKET", self.dir.join("api.sock")).arg("status");
        let done = command.args(json.then_some("--json")).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    }

    fn certificate(&self) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&self.status(true)).unwrap()["certificate"].clone()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn mode(&self, file: &str) -> u32 {
        std::fs::metadata(self.dir.join("state/acme").join(file)).unwrap().permissions().mode() & 0o777
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn verifying(roots: RootCertStore) -> Arc<ClientConfig> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn trusting(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
    verifying(roots)
}

/// Takes whatever is shown, to be looked at.
fn curious() -> Arc<ClientConfig> {
    let config =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Any));
    Arc::new(config.with_no_client_auth())
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn try_tls(port: u16, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut session =
        ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    session.complete_io(&mut socket)?;
    Ok(StreamOwned::new(session, socket))
}

fn tls(port: u16, name: &str, config: &Arc<ClientConfig>) -> Stream {
    try_tls(port, name, config).unwrap()
}

fn ask(stream: &mut Stream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// One request of a connection that stays open.
fn is_healthy(stream: &mut Stream) -> bool {
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    if stream.write_all(request.as_bytes()).is_err() {
        return false;
    }
    while !answer.ends_with(b"ok\n") {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => answer.extend_from_slice(&buffer[..n]),
            _ => return false,
        }
    }
    answer.starts_with(b"HTTP/1.1 200")
}

/// SHA-256 of what is shown for a name or an address.
fn shown(port: u16, name: &str) -> String {
    let stream = tls(port, name, &curious());
    let leaf = stream.conn.peer_certificates().unwrap()[0].clone();
    Sha256::digest(leaf).iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn a_certificate_is_ordered_by_tls_alpn_01_and_renewed_under_open_connections() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, authority) = (port(), Authority::new(dir.path()));
    let _authority = authority.start(port(), listen, 15);
    let served = Coordinator::start(dir.path(), listen, &authority, &["--acme-challenge", "tls-alpn-01"]);

    let first = until("a certificate", || Some(shown(listen, NAME)).filter(|now| *now != served.own));
    // One that browsers take: the chain leads to the authority's root, for this name.
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let browser = verifying(roots);
    let mut page = tls(listen, NAME, &browser);
    let answer = ask(&mut page, &format!("GET / HTTP/1.0\r\nHost: {NAME}:{listen}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.0 303") && answer.contains("/login"), "{answer}");
    // By address, and by another name, the printed one.
    assert_eq!(
        [shown(listen, "127.0.0.1"), shown(listen, "localhost")],
        [served.own.clone(), served.own.clone()]
    );
    assert!(served.certificate()["ends"].is_u64() && served.certificate()["trouble"].is_null());
    assert_eq!([served.mode("."), served.mode("certificate.pem")], [0o700, 0o600]);
    for entry in std::fs::read_dir(dir.path().join("state/acme")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    // Two renewals: a connection that stands keeps working, and each new one is taken.
    let mut standing = tls(listen, NAME, &browser);
    let mut seen = vec![first];
    until("two renewals", || {
        assert!(is_healthy(&mut standing), "a standing connection broke");
        let mut new = try_tls(listen, NAME, &browser).expect("a new connection was not taken");
        assert!(is_healthy(&mut new));
        let now = shown(listen, NAME);
        if !seen.contains(&now) {
            seen.push(now);
        }
        (seen.len() == 3).then_some(())
    });
    assert!(!seen.contains(&served.own), "the own certificate never came back in between");
    assert_eq!(served.log().matches("certificate issued").count(), 3, "{}", served.log());
    assert!(!served.log().contains("WARN"), "{}", served.log());

    // What is kept is shown at once after a restart, also while the authority is away.
    drop(_authority);
    let Coordinator { program, .. } = served;
    drop(program);
    let again = Coordinator::start(dir.path(), listen, &authority, &["--acme-challenge", "tls-alpn-01"]);
    assert!(seen.contains(&shown(listen, NAME)));
    // And not beyond its end: then the own one, whose fingerprint can be compared.
    until("the end of the last one", || (shown(listen, NAME) == again.own).then_some(()));
    assert!(again.certificate()["ends"].is_null());
}

#[test]
fn while_the_authority_is_away_the_own_certificate_stays_and_http_01_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, http, authority) = (port(), port(), Authority::new(dir.path()));
    let at = format!("127.0.0.1:{http}");
    // Machines outside come by another port than 443: HTTP-01 is chosen.
    let more = ["--public", &format!("{NAME}:{listen}"), "--acme-http", &at];
    let served = Coordinator::start(dir.path(), listen, &authority, &more);
    until("a warning", || served.log().contains("cannot be reached").then_some(()));
    assert_eq!(shown(listen, NAME), served.own);
    let told = served.certificate();
    assert!(told["ends"].is_null() && told["again"].is_u64(), "{told}");
    assert!(served.status(false).contains("a self-made one stays; next try"), "{}", served.status(false));
    assert!(served.log().contains("WARN"), "{}", served.log());

    let _authority = authority.start(http, port(), 86_400);
    until("a certificate", || (shown(listen, NAME) != served.own).then_some(()));
    assert!(TcpStream::connect(("127.0.0.1", http)).is_err(), "the port is open for the check only");
    assert!(
        served.certificate()["trouble"].is_null() && served.status(false).contains("Certificate for vpn")
    );
}

#[test]
fn names_that_nobody_certifies_and_two_kinds_of_certificate_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let said = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--no-relay", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(dir.path().join("s"));
        let done = command.args(more).output().unwrap();
        assert!(!done.status.success());
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    assert!(said(&["--acme", "vpn.home.internal"]).contains("no authority certifies"));
    assert!(said(&["--acme", NAME, "--acme-directory", "http://x/"]).contains("https://"));
    assert!(said(&["--acme", NAME, "--tls-cert", "a", "--tls-key", "b"]).contains("cannot be used with"));
    assert!(!dir.path().join("s").exists(), "nothing is made by a mistaken command");
}
