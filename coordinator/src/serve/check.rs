//! Asks our own outside addresses once, as far as that can be done from here.
//!
//! An answer proves a listener there; silence proves nothing: many routers do not loop back. So silence is a
//! hint in the log and no more.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(4);

/// Asks each address for `/healthz` over plain HTTP, as a node would begin.
pub(super) async fn own_addresses(addresses: Vec<String>) {
    for address in addresses {
        match tokio::time::timeout(PATIENCE, answers(&address)).await {
            Ok(Ok(true)) => tracing::debug!(%address, "answers from here"),
            Ok(Ok(false)) => {
                tracing::warn!(%address, "something else answers there: is the port forwarded to this machine?")
            }
            Ok(Err(error)) => hint(&address, &error.to_string()),
            Err(_) => hint(&address, "no answer"),
        }
    }
}

async fn answers(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: coordinator\r\nConnection: close\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200")
}

fn hint(address: &str, why: &str) {
    tracing::info!(
        %address, why,
        "could not reach this coordinator there from itself. Behind a router that can be normal; if machines outside \
         cannot join either, check the name, the forwarded port and the firewall"
    );
}
