//! From a list of addresses to an open channel with the right coordinator: [`crate::dial`] finds a way, the
//! first answer that finishes the whole handshake with the right keys wins.

use super::ControlConfig;
use crate::dial::{DialError, Dialer};
use meshd_proto::channel::{Channel, Frames, Greeting, Initiator};
use meshd_proto::token::CoordinatorKeys;
use meshd_relay::stream::BoxIo;
use meshd_relay::stream::upgrade::{CONTROL, UpgradeError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An open channel and what it runs over.
pub(super) struct Connection {
    pub(super) stream: BoxIo,
    pub(super) channel: Channel,
    pub(super) frames: Frames,
    pub(super) keys: CoordinatorKeys,
    pub(super) address: String,
}

/// Tries `addresses`; the first right coordinator wins.
pub(super) async fn dial(
    dialer: &mut Dialer,
    addresses: &[String],
    config: &ControlConfig,
) -> Result<Connection, DialError> {
    let finish = |io, at| shake(io, at, config);
    let (mut connection, name) = dialer.open(addresses, CONTROL, finish).await?;
    connection.address = name;
    Ok(connection)
}

async fn shake(mut stream: BoxIo, at: String, config: &ControlConfig) -> Result<Connection, DialError> {
    let mut frames = Frames::handshake();
    let greeting = read_frame(&mut stream, &mut frames, &at).await?;
    let Greeting(keys) = Greeting::parse(&greeting).map_err(|e| broken(&at, e))?;
    // The first message only when the keys shown are trusted.
    if !config.trust.accepts(&keys) {
        return Err(DialError::OtherKeys(at));
    }
    let (initiator, first) =
        Initiator::new(&config.machine, &keys.control, config.network).map_err(|e| broken(&at, e))?;
    let io = |source| DialError::Io { at: at.clone(), source };
    stream.write_all(&first).await.map_err(io)?;
    stream.flush().await.map_err(io)?;
    let second = read_frame(&mut stream, &mut frames, &at).await?;
    let channel = initiator.finish(&second).map_err(|e| broken(&at, e))?;
    frames.allow_transport();
    Ok(Connection { stream, channel, frames, keys, address: String::new() })
}

fn broken(at: &str, why: impl std::fmt::Display) -> DialError {
    DialError::Handshake { at: at.to_owned(), why: why.to_string() }
}

async fn read_frame(stream: &mut BoxIo, frames: &mut Frames, at: &str) -> Result<Vec<u8>, DialError> {
    loop {
        if let Some(body) = frames.next_frame().map_err(|e| broken(at, e))? {
            return Ok(body.to_vec());
        }
        let mut buffer = [0; 512];
        let read = stream.read(&mut buffer).await;
        let n = read.map_err(|source| DialError::Io { at: at.to_owned(), source })?;
        if n == 0 {
            return Err(DialError::Stranger { at: at.to_owned(), why: UpgradeError::HungUp });
        }
        frames.push(&buffer[..n]);
    }
}
