//! Fills a state directory with a mesh of so many nodes, for the tests and the benchmark of the pages:
//! `seed DIR COUNT`. The nodes are made by the service's own rules; none of them runs.

#![expect(clippy::unwrap_used, reason = "a fixture: what fails here fails the test")]

use meshd_coordinator::clock::unix_now;
use meshd_coordinator::service::{
    Actor, Founding, PolicyChange, RecordInput, RegisterRequest, Service, TokenRequest,
};
use meshd_coordinator::store::{StateDir, Store};
use meshd_proto::token::TokenSecret;
use meshd_proto::{MachineSecret, NodeSecret};
use std::collections::BTreeSet;

const POLICY: &str = r#"// Who may reach what.
{
  "groups": {
    "group:ops": ["ada", "grace"],
    "group:family": ["linus", "owner"],
  },
  "hosts": { "nas": "192.168.1.10" },
  "tagOwners": {
    "tag:web": ["group:ops"],
    "tag:db": ["group:ops"],
    "tag:router": ["group:ops"],
  },
  "acls": [
    // Everybody reaches the own machines.
    { "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"] },
    // Operators administer servers.
    { "action": "accept", "proto": "tcp", "src": ["group:ops"], "dst": ["tag:web:22,443", "tag:db:22,5432"] },
    { "action": "accept", "src": ["group:ops"], "dst": ["tag:router:*"] },
    // Web servers use the databases.
    { "action": "accept", "proto": "tcp", "src": ["tag:web"], "dst": ["tag:db:5432"] },
    // The family reaches the NAS behind the router.
    { "action": "accept", "proto": "tcp", "src": ["group:family"], "dst": ["nas:443,445"] },
  ],
  "tests": [
    { "src": "ada", "proto": "tcp", "accept": ["tag:db:5432"], "deny": ["tag:db:80"] },
  ],
}
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("seed DIR COUNT");
    let count: u32 = args.next().and_then(|n| n.parse().ok()).expect("seed DIR COUNT");
    let now = unix_now();
    let mut store = Store::open(StateDir::open(dir.as_ref()).unwrap(), now).await.unwrap();
    let entropy = std::array::from_fn(|i| [i as u8 + 1; 32]);
    let prefix = Some("100.71.0.0/16".parse().unwrap());
    let founding = Founding { name: "home".parse().unwrap(), prefix, in_use: Vec::new(), entropy };
    let loaded = founding.run(&mut store, now).await.unwrap();
    let service = Service::new(store, loaded, now);
    service
        .set_reachability(&Actor::System, &["vpn.example.com:443".to_owned()], None, None, now)
        .await
        .unwrap();
    let root = Actor::LocalRoot;
    for (name, value) in
        [("nas", "192.168.1.10"), ("printer", "192.168.1.30"), ("wiki", "web-1.home.internal")]
    {
        let input = RecordInput { name: name.to_owned(), kind: None, value: value.to_owned(), ttl: None };
        service.add_record(&root, &input, now).await.unwrap();
    }
    let kinds: [(&str, Option<&str>, &[&str], bool); 8] = [
        ("ada-laptop", Some("ada"), &[], true),
        ("web", None, &["tag:web"], true),
        ("db", None, &["tag:db"], true),
        ("grace-phone", Some("grace"), &[], true),
        ("pi", None, &["tag:router"], true),
        ("linus-desk", Some("linus"), &[], true),
        ("owner-mac", Some("owner"), &[], true),
        ("guest", Some("linus"), &[], false),
    ];
    let mut secrets = Vec::new();
    for (name, user, tags, approved) in kinds {
        let request = TokenRequest {
            uses: count.max(10),
            lifetime: 30 * 24 * 3600,
            tags: tags.iter().map(|t| t.parse().unwrap()).collect(),
            user: user.map(str::to_owned),
            pre_approved: approved,
            note: format!("machines like {name}"),
            ..TokenRequest::default()
        };
        let made = service.create_token(&root, &request, now).await.unwrap();
        secrets.push(TokenSecret::from_bytes(*made.token.secret.as_bytes()));
    }
    for n in 0..count {
        let kind = n as usize % kinds.len();
        let mut seed = [0x5a; 32];
        // Not the first bytes: X25519 clears bits of them.
        seed[4..8].copy_from_slice(&n.to_le_bytes());
        let router = kinds[kind].0 == "pi";
        let advertised: BTreeSet<_> = match n / 8 {
            0 if router => ["192.168.1.0/24".parse().unwrap()].into(),
            k if router && k < 200 => [format!("10.{k}.0.0/16").parse().unwrap()].into(),
            _ => BTreeSet::new(),
        };
        let request = RegisterRequest {
            machine_key: MachineSecret::from_bytes(seed).public(),
            node_key: NodeSecret::from_bytes(seed.map(|b| b ^ 0xff)).public(),
            token: Some(TokenSecret::from_bytes(*secrets[kind].as_bytes())),
            hostname: format!("{}-{}", kinds[kind].0, n / 8 + 1),
            machine_id_hash: None,
            advertised,
            exit: router && n < 8,
            ephemeral: false,
            os: ["Debian 12", "Alpine 3.22", "Raspberry Pi OS", "macOS 26"][n as usize % 4].to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            remote: None,
        };
        service.register(&request, now).await.unwrap();
    }
    if count > 4 {
        service.approve_routes(&root, "pi-1", &["192.168.1.0/24".parse().unwrap()], now).await.unwrap();
    }
    let change = PolicyChange { text: POLICY, expected: None, force: true };
    service.set_policy(&root, &change, now).await.unwrap();
}
