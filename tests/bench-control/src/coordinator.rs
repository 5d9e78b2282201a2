//! The coordinator's process: `--coordinator DIR MESH SIZE PORT`. It prints `ready ADDRESS`, then does what
//! its standard input says (`tag NODE TAG`, `policy`) and answers `done`.

use crate::mesh::Mesh;
use crate::node;
use anyhow::{Context, Result, bail};
use meshd_coordinator::clock;
use meshd_coordinator::control::Hub;
use meshd_coordinator::service::{Actor, Founding, PolicyChange, RegisterRequest, Service, TokenRequest};
use meshd_coordinator::store::{StateDir, Store};
use meshd_proto::token::TokenSecret;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const ROOT: Actor = Actor::LocalRoot;

/// Serves until standard input ends.
pub(crate) async fn run(args: &[String]) -> Result<()> {
    let [dir, mesh, size, port] = args else { bail!("--coordinator DIR MESH SIZE PORT") };
    let mesh = Mesh::parse(mesh).context("no such mesh")?;
    let service = open(Path::new(dir), mesh, size.parse()?).await?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?)).await?;
    let address = listener.local_addr()?;
    let hub = Hub::new(service.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(hub.clone().run());
    tasks.spawn(accept(listener, hub));
    println!("ready {address}");
    let mut lines = orders();
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let now = clock::unix_now();
        match words.as_slice() {
            ["tag", name, tag] => service.tag_node(&ROOT, name, &BTreeSet::from([tag.parse()?]), now).await?,
            ["policy"] => {
                service.set_policy(&ROOT, &forced(&mesh.policy(true)), now).await?;
            }
            _ => bail!("`{line}`?"),
        }
        println!("done");
    }
    Ok(())
}

/// The lines of standard input, read by a thread of their own.
fn orders() -> mpsc::Receiver<String> {
    let (lines, orders) = mpsc::channel(4);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    orders
}

/// The service of a mesh with `size` members; they are made at the first start.
async fn open(dir: &Path, mesh: Mesh, size: usize) -> Result<Arc<Service>> {
    let now = clock::unix_now();
    let mut store = Store::open(StateDir::open(dir)?, now).await?;
    if let Some(loaded) = store.load().await? {
        return Ok(Arc::new(Service::new(store, loaded, now)));
    }
    let founding = Founding { name: "bench".parse()?, prefix: None, in_use: vec![], entropy: [[7; 32]; 5] };
    let loaded = founding.run(&mut store, now).await?;
    let service = Arc::new(Service::new(store, loaded, now));
    service.set_reachability(&ROOT, &["127.0.0.1:1".to_owned()], None, None, now).await?;
    service.set_policy(&ROOT, &forced(&mesh.policy(false)), now).await?;
    let mut tokens: BTreeMap<String, TokenSecret> = BTreeMap::new();
    for i in 0..size {
        let tag = mesh.tag(i);
        let key = tag.clone().unwrap_or_else(|| format!("owner{i}"));
        let token = match tokens.get(&key) {
            Some(token) => token.clone(),
            None => {
                let tags = tag.iter().map(|t| t.parse()).collect::<Result<_, _>>()?;
                let user = tag.is_none().then(|| key.clone());
                let request = TokenRequest { uses: 50_000, tags, user, ..TokenRequest::default() };
                let secret = service.create_token(&ROOT, &request, now).await?.token.secret.clone();
                tokens.insert(key, secret.clone());
                secret
            }
        };
        let registration = service.register(&request(i, token), now).await?;
        if !registration.admitted {
            bail!("node {i} was not admitted");
        }
    }
    Ok(service)
}

fn request(i: usize, token: TokenSecret) -> RegisterRequest {
    RegisterRequest {
        machine_key: node::machine(i).public(),
        node_key: node::node_secret(i).public(),
        token: Some(token),
        hostname: node::name(i),
        machine_id_hash: Some(node::machine_id(i)),
        advertised: BTreeSet::new(),
        exit: false,
        ephemeral: false,
        os: node::OS.to_owned(),
        client_version: node::CLIENT_VERSION.to_owned(),
        remote: None,
    }
}

async fn accept(listener: TcpListener, hub: Arc<Hub>) {
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        let Ok((mut stream, peer)) = listener.accept().await else { continue };
        let hub = hub.clone();
        sessions.spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut head = Vec::with_capacity(256);
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() > 4096 || stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            if stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.is_ok() {
                hub.accept(stream, peer).await;
            }
        });
    }
}

/// A change of policy that is measured, whatever it cuts.
fn forced(text: &str) -> PolicyChange<'_> {
    PolicyChange { text, expected: None, force: true }
}
