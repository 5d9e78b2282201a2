//! A coordinator for tests: the real service and hub behind a loopback socket.
#![expect(unreachable_pub, reason = "each test binary has its own copy of this module")]

use meshd_coordinator::clock;
use meshd_coordinator::control::Hub;
use meshd_coordinator::service::{Actor, Founding, Service, TokenRequest};
use meshd_coordinator::store::{StateDir, Store};
use meshd_proto::token::JoinToken;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// May do everything.
pub const ROOT: Actor = Actor::LocalRoot;

/// A coordinator on a loopback port. Dropping it is a crash.
pub struct Coordinator {
    pub service: Arc<Service>,
    pub address: String,
    _tasks: JoinSet<()>,
}

impl Coordinator {
    pub async fn start(dir: &TempDir, port: u16) -> Self {
        let now = clock::unix_now();
        // A predecessor that was dropped may still be giving up its lock.
        let mut state = StateDir::open(dir.path());
        for _ in 0..50 {
            if state.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            state = StateDir::open(dir.path());
        }
        let mut store = Store::open(state.unwrap(), now).await.unwrap();
        let loaded = match store.load().await.unwrap() {
            Some(loaded) => loaded,
            None => {
                let name = "home".parse().unwrap();
                let founding = Founding { name, prefix: None, in_use: vec![], entropy: [[7; 32]; 5] };
                founding.run(&mut store, now).await.unwrap()
            }
        };
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = Arc::new(Service::new(store, loaded, now));
        service.set_reachability(&ROOT, std::slice::from_ref(&address), None, None, now).await.unwrap();
        let hub = Hub::new(service.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(hub.clone().run());
        tasks.spawn(accept_loop(listener, hub));
        Self { service, address, _tasks: tasks }
    }

    pub async fn token(&self) -> JoinToken {
        self.service.create_token(&ROOT, &TokenRequest::default(), clock::unix_now()).await.unwrap().token
    }
}

async fn accept_loop(listener: TcpListener, hub: Arc<Hub>) {
    let mut sessions = JoinSet::new();
    loop {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let hub = hub.clone();
        sessions.spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await;
            hub.accept(stream, peer).await;
        });
    }
}
