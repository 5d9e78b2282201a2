//! The pod's network namespace: opened once, entered by threads of their own.
//!
//! The calling thread never moves: a thread that entered a namespace ends in it.

use crate::failure::{Code, Failure};
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// A network namespace that is not the host's.
#[derive(Debug)]
pub(crate) struct PodSpace {
    file: OwnedFd,
    /// `CNI_NETNS`, as it was given.
    pub(crate) path: String,
}

impl PodSpace {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        // NONBLOCK: a FIFO in its place must not hold us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT | Errno::NOTDIR => {
                let details =
                    format!("CNI_NETNS: {shown} is not there; the container has ended, or never began");
                Failure::new(Code::UnknownContainer, "the container's network namespace is gone", details)
            }
            e => Failure::io(format!("cannot open CNI_NETNS {shown}"), &e.into()),
        })?;
        let own = open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|own| fstat(&own))
            .map_err(|e| Failure::io("cannot read /proc/thread-self/ns/net", &e.into()))?;
        let pod = fstat(&file).map_err(|e| Failure::io(format!("cannot read {shown}"), &e.into()))?;
        if (own.st_dev, own.st_ino) == (pod.st_dev, pod.st_ino) {
            let details =
                format!("CNI_NETNS: {shown} is the host's own namespace; a pod needs one of its own");
            return Err(Failure::new(Code::InvalidEnvironment, "CNI_NETNS is not usable", details));
        }
        Ok(Self { file, path: shown })
    }

    /// For the kernel, in a message.
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `work` in the pod's network.
    pub(crate) fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
                    |e| {
                        let path = &self.path;
                        let details = format!(
                            "CNI_NETNS: {path}: {e}; it must be a network namespace, and root enters it"
                        );
                        Failure::new(Code::InvalidEnvironment, "cannot enter CNI_NETNS", details)
                    },
                )?;
                work()
            });
            moved.join().unwrap_or_else(|_| {
                Err(Failure::new(Code::Kernel, "cannot work in the pod's network", "a thread ended early"))
            })
        })
    }
}
