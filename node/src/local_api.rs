//! The local API's socket: accepts, reads the peer's credentials, decides who may ask what, and hands
//! the question to the daemon.
//!
//! Root and members of the operator group may change things, everybody on the machine may read. There
//! is no TCP port, so no browser reaches it. No user can keep another one out: each may hold a few
//! connections, all but root together leave some free, and who does not read is hung up on.

use meshd_proto::localapi::{Ask, Failure, LENGTH_PREFIX, Request, Response, Tell, frame, frame_len};
use prost::Message;
use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};

/// The group whose members may change things, when it exists.
pub const OPERATOR_GROUP: &str = "meshd";
/// Clients at once.
const LIMITS: Limits = Limits { all: 64, but_root: 48, each: 12, answer: Duration::from_secs(10) };
/// How long a client may take to send its question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// A question that passed the check of who asks it.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub ask: Ask,
    /// Where the answers go. Closed: the client is gone.
    pub answers: mpsc::Sender<Response>,
}

/// The listening socket; the file goes away with it.
#[derive(Debug)]
pub struct LocalApi {
    listener: UnixListener,
    path: PathBuf,
    limits: Limits,
}

/// How many clients there may be at once.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: usize,
    /// All users but root together.
    but_root: usize,
    /// Each user but root.
    each: usize,
    /// How long a client may take to read an answer.
    answer: Duration,
}

/// Who is connected, by the tasks that serve them.
#[derive(Debug, Default)]
struct Clients {
    tasks: JoinSet<()>,
    users: HashMap<Id, u32>,
}

impl Clients {
    fn has_room_for(&self, uid: u32, limits: Limits) -> bool {
        let count = |counts: &dyn Fn(u32) -> bool| self.users.values().filter(|u| counts(**u)).count();
        let (others, own) = (count(&|u| u != 0), count(&|u| u == uid));
        self.users.len() < limits.all && (uid == 0 || (others < limits.but_root && own < limits.each))
    }

    fn serve(&mut self, uid: u32, client: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(client);
        self.users.insert(task.id(), uid);
    }

    /// Returns when one has gone; nobody there: never.
    async fn left(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.users.remove(&id);
    }
}

impl LocalApi {
    /// Listens on `path`.
    ///
    /// # Errors
    /// `AddrInUse` when another daemon answers there; otherwise what the system says.
    pub async fn listen(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Everybody may connect: the credentials decide.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { listener, path: path.to_owned(), limits: LIMITS })
    }

    /// Serves until dropped. Questions go to `daemon`.
    pub async fn serve(self, daemon: mpsc::Sender<Question>) {
        let mut clients = Clients::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Without credentials it is nobody, as anybody else.
                        let (uid, gid) =
                            stream.peer_cred().map_or((u32::MAX, u32::MAX), |c| (c.uid(), c.gid()));
                        if clients.has_room_for(uid, self.limits) {
                            clients.serve(uid, client(stream, (uid, gid), daemon.clone(), self.limits.answer));
                        } else {
                            tracing::debug!(uid, "too many local clients: one refused");
                            refuse(&stream);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the local API cannot accept");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
                () = clients.left() => {}
            }
        }
    }
}

/// Says why, if that fits into the socket's buffer, which is empty.
fn refuse(stream: &UnixStream) {
    let failure = Failure::new(
        "the daemon answers too many questions of yours at once",
        "wait until one of them is answered, or end programs that hold connections open",
    );
    let _ = stream.try_write(&frame(&Response::last(Tell::Failed(failure))));
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn client(
    mut stream: UnixStream,
    (uid, gid): (u32, u32),
    daemon: mpsc::Sender<Question>,
    patience: Duration,
) {
    let may_change = may_change(uid, gid);
    let answer = match tokio::time::timeout(QUESTION_TIMEOUT, question(&mut stream)).await {
        Ok(Ok(ask)) if may_change || is_reading(&ask) => {
            return relay_answers(stream, ask, daemon, patience).await;
        }
        Ok(Ok(_)) => Failure {
            message: "not allowed: this changes the node".to_owned(),
            hint: format!("run it as root, or as a member of the group `{OPERATOR_GROUP}`"),
            exit_code: 77,
        },
        Ok(Err(error)) => Failure::new(
            format!("the daemon did not understand the question: {error}"),
            "are `meshd` and the running daemon of the same version? restart the daemon after an upgrade",
        ),
        Err(_) => return,
    };
    say(&mut stream, &Response::last(Tell::Failed(answer)), patience).await;
}

/// Whether it was taken, in time.
async fn say(stream: &mut (impl AsyncWrite + Unpin), response: &Response, patience: Duration) -> bool {
    let bytes = frame(response);
    tokio::time::timeout(patience, stream.write_all(&bytes)).await.is_ok_and(|written| written.is_ok())
}

async fn relay_answers(mut stream: UnixStream, ask: Ask, daemon: mpsc::Sender<Question>, patience: Duration) {
    let (answers, mut incoming) = mpsc::channel::<Response>(64);
    if daemon.send(Question { ask, answers }).await.is_err() {
        return;
    }
    let mut gone = [0; 1];
    let (mut read, mut write) = stream.split();
    loop {
        tokio::select! {
            response = incoming.recv() => {
                let Some(response) = response else { return };
                if !say(&mut write, &response, patience).await || response.last {
                    return;
                }
            }
            // A client says nothing more: readable means that it hung up.
            _ = read.read(&mut gone) => return,
        }
    }
}

async fn question(stream: &mut UnixStream) -> Result<Ask, String> {
    let mut prefix = [0; LENGTH_PREFIX];
    stream.read_exact(&mut prefix).await.map_err(|e| e.to_string())?;
    let mut body = vec![0; frame_len(prefix).map_err(|e| e.to_string())?];
    stream.read_exact(&mut body).await.map_err(|e| e.to_string())?;
    let request = Request::decode(&*body).map_err(|e| e.to_string())?;
    request.ask.ok_or_else(|| "an unknown kind of question".to_owned())
}

const fn is_reading(ask: &Ask) -> bool {
    match ask {
        // A name, too: any program of this host may ask the resolver itself.
        Ask::Status(_) | Ask::Netcheck(_) | Ask::PathHistory(_) | Ask::Ping(_) | Ask::Name(_) => true,
        Ask::Up(_)
        | Ask::Down(_)
        | Ask::Set(_)
        | Ask::Logs(_)
        | Ask::CreateDevice(_)
        | Ask::Logout(_)
        | Ask::Drain(_)
        | Ask::Expose(_) => false,
    }
}

fn may_change(uid: u32, gid: u32) -> bool {
    // Who runs the daemon may do with it what the daemon may do.
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return true;
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    in_operator_group(uid, gid, &groups, &passwd)
}

/// Whether the user is in [`OPERATOR_GROUP`], by `/etc/group` and `/etc/passwd` (no NSS: a daemon that
/// asks LDAP through the network it manages would wait for itself).
fn in_operator_group(uid: u32, gid: u32, groups: &str, passwd: &str) -> bool {
    let Some(fields) = groups
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.first() == Some(&OPERATOR_GROUP) && f.len() >= 4)
    else {
        return false;
    };
    if fields[2].parse() == Ok(gid) {
        return true;
    }
    let name = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| f.len() > 2 && f[2].parse() == Ok(uid))
        .map(|f| f[0].to_owned());
    name.is_some_and(|name| fields[3].split(',').any(|m| m == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::localapi::Empty;

    #[test]
    fn the_operator_group_counts_as_primary_or_as_listed_group() {
        let groups = "root:x:0:\nmeshd:x:990:alice,bob\n";
        let passwd = "alice:x:1000:1000::/:/bin/sh\neve:x:1001:1001::/:/bin/sh\n";
        assert!(in_operator_group(1000, 1000, groups, passwd));
        assert!(in_operator_group(1001, 990, groups, passwd));
        assert!(!in_operator_group(1001, 1001, groups, passwd));
        assert!(!in_operator_group(1000, 1000, "", passwd));
    }

    /// Every question that the protocol knows, by its tag.
    fn questions() -> Vec<(u32, Ask)> {
        let known = |tag: u32| {
            let mut body = Vec::new();
            prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut body);
            body.push(0);
            Some((tag, Request::decode(&*body).ok()?.ask?))
        };
        (1..256).filter_map(known).collect()
    }

    /// What becomes of a question of this user: whether the daemon hears it, else the exit status of the refusal.
    async fn becomes(ask: &Ask, (uid, gid): (u32, u32)) -> Result<(), i32> {
        let (theirs, mut ours) = UnixStream::pair().unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(client(theirs, (uid, gid), tx, Duration::from_secs(5)));
        ours.write_all(&frame(&Request { ask: Some(ask.clone()) })).await.unwrap();
        if let Some(question) = rx.recv().await {
            assert_eq!(question.ask, *ask);
            return Ok(());
        }
        let mut prefix = [0; LENGTH_PREFIX];
        ours.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; frame_len(prefix).unwrap()];
        ours.read_exact(&mut body).await.unwrap();
        match Response::decode(&*body).unwrap().tell {
            Some(Tell::Failed(failure)) => Err(failure.exit_code),
            other => panic!("{ask:?}: neither heard nor refused: {other:?}"),
        }
    }

    /// The authorization matrix of the local API: every question × root, who runs the daemon, anybody else. Which
    /// command asks what is tried in `meshd`'s `cli/matrix.rs`.
    #[tokio::test]
    async fn whoever_is_not_root_nor_runs_the_daemon_may_read_and_change_nothing() {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let questions = questions();
        assert!(questions.len() >= 13, "not all questions were found: {questions:?}");
        for (tag, ask) in questions {
            // Status, Ping, Name, Netcheck, PathHistory.
            let reads = [1, 5, 20, 40, 41].contains(&tag);
            assert_eq!(becomes(&ask, (0, 0)).await, Ok(()), "root: {ask:?}");
            assert_eq!(becomes(&ask, own).await, Ok(()), "who runs the daemon: {ask:?}");
            let wanted = if reads { Ok(()) } else { Err(77) };
            assert_eq!(becomes(&ask, (65_533, 65_533)).await, wanted, "somebody: {ask:?}");
        }
    }

    #[tokio::test]
    async fn a_question_reaches_the_daemon_and_its_answers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/api.sock");
        let api = LocalApi::listen(&path).await.unwrap();
        assert_eq!(LocalApi::listen(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (tx, mut rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(api.serve(tx));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&frame(&Request { ask: Some(Ask::Status(Empty {})) })).await.unwrap();
        let question = rx.recv().await.unwrap();
        assert!(matches!(question.ask, Ask::Status(_)));
        question.answers.send(Response::last(Tell::Done(Empty {}))).await.unwrap();
        let mut prefix = [0; LENGTH_PREFIX];
        stream.read_exact(&mut prefix).await.unwrap();
        let mut body = vec![0; frame_len(prefix).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        assert!(Response::decode(&*body).unwrap().last);
    }

    #[tokio::test]
    async fn one_user_cannot_take_all_places_and_all_users_leave_some_to_root() {
        let limits = Limits { all: 6, but_root: 4, each: 2, ..LIMITS };
        let mut clients = Clients::default();
        let mut join = |uid| {
            let room = clients.has_room_for(uid, limits);
            if room {
                clients.serve(uid, std::future::pending());
            }
            room
        };
        assert_eq!([join(1000), join(1000), join(1000)], [true, true, false]);
        assert_eq!([join(1001), join(1001), join(1002)], [true, true, false], "four that are not root");
        assert_eq!([join(0), join(0), join(0)], [true, true, false]);
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_client_goes_and_who_is_refused_hears_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let mut api = LocalApi::listen(&path).await.unwrap();
        api.limits = Limits { all: 1, but_root: 1, each: 1, ..LIMITS };
        let (tx, _rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(api.serve(tx));
        let first = UnixStream::connect(&path).await.unwrap();
        let mut said = Vec::new();
        let mut second = UnixStream::connect(&path).await.unwrap();
        second.read_to_end(&mut said).await.unwrap();
        assert!(String::from_utf8_lossy(&said).contains("too many questions"));
        drop(first);
        let mut third = None;
        for _ in 0..100 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            let mut byte = [0];
            let refused = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
            if refused.is_err() {
                third = Some(stream);
                break;
            }
        }
        assert!(third.is_some(), "the place of the first client stayed taken");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_hung_up_on() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay_answers(ours, Ask::Status(Empty {}), tx, Duration::from_millis(50)));
        let question = rx.recv().await.unwrap();
        let long = Response::more(Tell::LogLine("x".repeat(60_000)));
        let mut sent = 0;
        while question.answers.send(long.clone()).await.is_ok() {
            sent += 1;
            assert!(sent < 1000, "nobody reads, and still it is all taken");
        }
        drop(theirs);
    }

    #[tokio::test]
    async fn garbage_gets_an_answer_and_an_oversize_question_no_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let api = LocalApi::listen(&path).await.unwrap();
        let (tx, _rx) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(api.serve(tx));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&[0xff; 64]).await.unwrap();
        let mut answer = Vec::new();
        // The daemon may close with our bytes unread, which resets the stream after the answer.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).contains("did not understand"));
    }
}
