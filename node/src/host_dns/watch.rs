//! Hears when somebody writes /etc/resolv.conf: inotify on its directory, since most writers replace
//! the file.

use super::files::named;
use rustix::fs::inotify;
use std::io;
use std::path::Path;
use tokio::net::unix::pipe::Receiver;

/// Bytes before the name of an event (inotify(7)).
const EVENT_HEADER: usize = 16;

/// A watch over one file's name, and over all that lies in a folder.
#[derive(Debug)]
pub(super) struct FileWatch {
    /// An inotify descriptor; it is read like a pipe, and tokio's pipe is its safe way to poll one.
    events: Receiver,
    name: Vec<u8>,
    /// The folder's number in the events.
    folder: Option<i32>,
}

impl FileWatch {
    /// Watches `path`, whether it is there or not, and `folder` if it is there.
    ///
    /// # Errors
    /// When its directory cannot be watched.
    pub(super) fn new(path: &Path, folder: &Path) -> io::Result<Self> {
        use inotify::{CreateFlags, WatchFlags};
        let dir = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        let watch = || -> io::Result<(Receiver, Option<i32>)> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let changes = WatchFlags::CLOSE_WRITE
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::ONLYDIR;
            inotify::add_watch(&fd, dir, changes)?;
            let folder = inotify::add_watch(&fd, folder, changes).ok();
            Ok((Receiver::from_owned_fd_unchecked(fd)?, folder))
        };
        let (events, folder) = watch().map_err(|e| named(dir, "watch", e))?;
        Ok(Self { events, name, folder })
    }

    /// Returns when something happened to the file. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            if self.events.readable().await.is_err() {
                // The reactor is gone: so are we, soon.
                return std::future::pending().await;
            }
            match self.events.try_read(&mut buffer) {
                Ok(len) if concerns(&self.name, self.folder, &buffer[..len]) => return,
                Ok(1..) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Ok(0) | Err(_) => return std::future::pending().await,
            }
        }
    }
}

/// Whether one of the events is about `name` or in the folder, or has no name: then some were lost.
fn concerns(name: &[u8], folder: Option<i32>, mut events: &[u8]) -> bool {
    while let Some((header, rest)) = events.split_first_chunk::<EVENT_HEADER>() {
        let len = u32::from_ne_bytes([header[12], header[13], header[14], header[15]]) as usize;
        let Some((padded, next)) = rest.split_at_checked(len) else { return true };
        let end = padded.iter().position(|b| *b == 0).unwrap_or(len);
        let place = i32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        if end == 0 || &padded[..end] == name || folder == Some(place) {
            return true;
        }
        events = next;
    }
    false
}
