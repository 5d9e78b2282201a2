//! A stream of the mesh and one of the host, joined: half-closes and resets pass in both directions.

use super::stream::TcpStream as MeshStream;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream as HostStream;

/// Bytes under way in each direction.
const BUFFER: usize = 64 << 10;

/// Copies until both directions have ended, or one side fails; then the other one is reset.
pub(crate) async fn splice(mut mesh: MeshStream, mut host: HostStream) {
    // Small writes of one side are small writes of the other.
    let _ = host.set_nodelay(true);
    if let Err(error) = copy_bidirectional_with_sizes(&mut mesh, &mut host, BUFFER, BUFFER).await {
        tracing::debug!(%error, mesh = ?mesh, "a connection broke");
        mesh.abort();
        // Linger 0: close sends a reset, so that half of an answer is not taken for a whole one.
        let _ = socket2::SockRef::from(&host).set_linger(Some(std::time::Duration::ZERO));
    }
}
