//! From a connection to an open channel and a hello whose keys are proved.

use super::hub::Hub;
use meshd_proto::channel::{Channel, ChannelError, Frames, Greeting, Responder, check_possession};
use meshd_proto::control::{Hello, ToCoordinator};
use meshd_proto::{DecodeError, NetworkId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Why a connection did not become a session. Of interest in logs at most: the other side is a stranger.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("hung up")]
    HungUp,
    #[error("{0}")]
    Channel(#[from] ChannelError),
    #[error("unreadable first message: {0}")]
    Decode(#[from] DecodeError),
    #[error("the first message is no hello")]
    NotHello,
    #[error("the proof of the node key is wrong")]
    Unproven,
}

/// A node whose keys are proved.
pub(super) struct Greeted {
    pub(super) channel: Channel,
    pub(super) frames: Frames,
    pub(super) hello: Hello,
}

pub(super) async fn shake<S>(io: &mut S, hub: &Hub, network: NetworkId) -> Result<Greeted, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let secret = &hub.service().keys().control;
    io.write_all(&Greeting(hub.service().public_keys()).to_frame()).await?;
    io.flush().await?;
    let mut frames = Frames::handshake();
    let first = read_frame(io, &mut frames).await?;
    let (unproven, second) = Responder::accept(secret, network, &first)?;
    io.write_all(&second).await?;
    io.flush().await?;
    frames.allow_transport();
    let sealed = read_frame(io, &mut frames).await?;
    let (channel, message) = unproven.prove(&sealed)?;
    let ToCoordinator::Hello(hello) = ToCoordinator::decode(&message)? else {
        return Err(HandshakeError::NotHello);
    };
    let proved = check_possession(
        secret,
        &hello.node_key,
        &channel.machine(),
        &channel.handshake_hash,
        &hello.node_key_proof,
    );
    if proved { Ok(Greeted { channel, frames, hello: *hello }) } else { Err(HandshakeError::Unproven) }
}

async fn read_frame<S: AsyncRead + Unpin>(
    io: &mut S,
    frames: &mut Frames,
) -> Result<Vec<u8>, HandshakeError> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(frame.to_vec());
        }
        let mut buffer = [0; 2048];
        let n = io.read(&mut buffer).await?;
        if n == 0 {
            return Err(HandshakeError::HungUp);
        }
        frames.push(&buffer[..n]);
    }
}
