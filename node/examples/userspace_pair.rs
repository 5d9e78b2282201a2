//! Two nodes inside one program, without privileges: they join a mesh, find each other by name and
//! exchange 10 MB each way at once.
//!
//! `userspace_pair TOKEN STATE-DIR-1 STATE-DIR-2` — the token must be good for two uses.

use anyhow::{Context, Result, ensure};
use meshd_node::userspace::{Node, NodeConfig, TcpStream};
use meshd_proto::localapi::Settings;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};

const BYTES: usize = 10_000_000;
const PORT: u16 = 7000;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [token, first, second] = args.as_slice() else {
        anyhow::bail!("usage: userspace_pair TOKEN STATE-DIR-1 STATE-DIR-2");
    };
    let (one, two) =
        tokio::try_join!(start(token, first.into(), "pair-one"), start(token, second.into(), "pair-two"))?;
    println!("{}", one.status().await?.me.context("no status")?.fqdn);

    let listener = two.listen(PORT)?;
    // The other one's name comes with the next map.
    let mut found = one.resolve("pair-two").await;
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = one.resolve("pair-two").await;
    }
    let addresses = found.context("pair-two has no address")?;
    ensure!(addresses.len() == 2, "IPv4 and IPv6, not {addresses:?}");

    for address in addresses {
        let target = address.to_string();
        // Whoever is not reached never knocks: a failure of the one ends the wait of the other.
        let knock = async { anyhow::Ok(one.connect(&target, PORT).await?) };
        let open = async { anyhow::Ok(listener.accept().await?) };
        let (here, (there, from)) = tokio::try_join!(knock, open)?;
        ensure!(from == here.local_addr(), "{from}");
        #[expect(clippy::disallowed_methods, reason = "a program that measures itself")]
        let began = Instant::now();
        tokio::try_join!(exchange(here, 1), exchange(there, 2))?;
        let took = began.elapsed().as_secs_f64();
        let rate = 2.0 * BYTES as f64 * 8.0 / took / 1e6;
        println!("2 x 10 MB through {target}: {took:.2} s, {rate:.0} Mbit/s");
    }
    // What nobody listens on is refused, at once and as such.
    let refused = one.connect("pair-two", 7001).await.err().context("a closed port took a connection")?;
    ensure!(refused.kind() == std::io::ErrorKind::ConnectionRefused, "{refused}");
    let unknown = one.connect("nobody", 1).await.err().context("nobody took a connection")?;
    ensure!(unknown.kind() == std::io::ErrorKind::HostUnreachable, "{unknown}");
    drop(listener);
    one.leave().await?;
    two.shutdown().await?;
    println!("done");
    Ok(())
}

async fn start(token: &str, state: PathBuf, name: &str) -> Result<Node> {
    let settings = Settings { hostname: Some(name.to_owned()), ..Settings::default() };
    let config = NodeConfig::new(state).with_token(token).with_settings(settings);
    Node::start(config).await.with_context(|| format!("{name} does not start"))
}

/// Sends 10 MB, receives 10 MB and looks at every byte.
async fn exchange(stream: TcpStream, seed: usize) -> Result<()> {
    let data = |seed: usize| (0..BYTES).map(move |i| (i * 31 + i / 251 + seed) as u8);
    let (mut reader, mut writer) = split(stream);
    let send = async {
        writer.write_all(&data(seed).collect::<Vec<u8>>()).await?;
        anyhow::Ok(writer.shutdown().await?)
    };
    let receive = async {
        let mut got = Vec::with_capacity(BYTES);
        reader.read_to_end(&mut got).await?;
        ensure!(got.len() == BYTES && got.iter().copied().eq(data(3 - seed)), "other bytes: {}", got.len());
        anyhow::Ok(())
    };
    tokio::try_join!(send, receive)?;
    Ok(())
}
