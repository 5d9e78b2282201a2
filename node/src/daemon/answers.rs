//! Answers to the questions of the local API.

use super::targets::find_peer;
use super::waiting::Waiting;
use super::{Daemon, Hindrance, Join, status};
use crate::clock;
use crate::control::Command;
use crate::local_api::Question;
use crate::mesh::MeshCommand;
use meshd_engine::{Preshared, Via};
use meshd_proto::control::{Answer, Call};
use meshd_proto::localapi::{
    Ask, Device, DeviceConfig, Empty, Failure, Logs, NameAnswer, NameQuestion, Ping, Pong, Response,
    Settings as Patch, Tell, Up,
};
use meshd_proto::netmap::PeerKind;
use meshd_proto::token::JoinToken;
use meshd_proto::{Endpoint, Hostname, NodeKey};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

/// Longest wait for a ping.
const MAX_PING: Duration = Duration::from_secs(60);
/// Most log lines at once.
const MAX_LOG_LINES: usize = 2000;

/// How long a node that leaves waits for the coordinator's word.
const LEAVE_LIMIT: Duration = Duration::from_secs(8);

type Answers = mpsc::Sender<Response>;

impl Daemon {
    pub(super) async fn answer(&mut self, question: Question) {
        let Question { ask, answers } = question;
        if self.leaving.is_some() && matches!(ask, Ask::Up(_) | Ask::Down(_) | Ask::Set(_)) {
            let busy = Failure::new("this node is leaving its mesh", "try again in a few seconds");
            let _ = answers.try_send(Response::last(Tell::Failed(busy)));
            return;
        }
        let response = match ask {
            Ask::Status(_) => Response::last(Tell::Status(Box::new(self.status().await))),
            Ask::Up(up) => match self.up(up, &answers).await {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::Down(_) => self.down().await,
            Ask::Set(patch) => self.set(&patch).await,
            Ask::Ping(ping) => match self.ping(&ping, &answers) {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::Logs(logs) => {
                self.logs(logs, answers);
                return;
            }
            Ask::CreateDevice(device) => match self.create_device(&device, &answers).await {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::Name(question) => {
                self.explain_name(question, answers);
                return;
            }
            Ask::Logout(_) => {
                self.logout(answers).await;
                return;
            }
            Ask::Netcheck(_) => match self.netcheck(&answers) {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::PathHistory(query) => match self.path_history(&query, &answers) {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::Expose(expose) => match self.expose(expose, answers.clone()) {
                Ok(()) => return,
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
            Ask::Drain(drain) => match self.drain(drain) {
                Ok(()) => Response::last(Tell::Done(Empty {})),
                Err(failure) => Response::last(Tell::Failed(failure)),
            },
        };
        // A client that hung up needs no answer.
        let _ = answers.try_send(response);
    }

    async fn up(&mut self, up: Up, answers: &Answers) -> Result<(), Failure> {
        let token = up.token.as_deref().map(str::parse::<JoinToken>).transpose();
        let token = token.map_err(|e| Failure { exit_code: 2, ..Failure::new(e.to_string(), "") })?;
        let join = match (&self.membership, token) {
            (Some(member), Some(token)) if member.network != token.network => {
                return Err(Failure::new(
                    "this node is a member of another mesh already",
                    "leave that one first: `meshd down --logout`",
                ));
            }
            // A member whose node was removed joins anew; otherwise the token is not used up.
            (Some(_), Some(token)) if self.is_out() => Some(token),
            (Some(_), _) => None,
            (None, Some(token)) => Some(token),
            // It goes on with the token of before.
            (None, None) if self.joining.is_some() => None,
            (None, None) => return Err(how_to_join()),
        };
        let mut intent = self.intent.clone();
        if let Some(patch) = &up.settings {
            intent.settings = self.patched(patch)?;
        }
        intent.up = true;
        self.store_intent(intent)?;
        if let Some(token) = &join {
            // Where the coordinator is away, or an admin has to agree first, a restart must not forget it.
            let failed =
                |e: crate::state::StateError| Failure::new(e.to_string(), "is the disk full or read-only?");
            self.state.set_joining(token).map_err(failed)?;
            self.joining = Some(token.clone());
        }
        let join = join.map(|token| Join::from_token(&token));
        if join.is_none() && self.running.is_some() {
            self.apply_settings().await;
        }
        self.waiting.add(answers.clone());
        self.bring_up(join).await;
        self.node_is_up().await;
        Ok(())
    }

    /// Whether a token would be used: the node was put out, or no admin has let it in yet.
    fn is_out(&self) -> bool {
        matches!(self.hindrance, Hindrance::Refused(_) | Hindrance::Revoked(_))
            || self.running.as_ref().is_some_and(|r| r.map.me.is_none() && !r.link.connected)
    }

    /// The token has done its work, or is of no use.
    pub(super) fn join_is_over(&mut self) {
        if self.joining.take().is_some()
            && let Err(error) = self.state.forget_joining()
        {
            tracing::warn!(%error, "the join token stays on disk");
        }
    }

    /// Tells who waits for `up`, once names and routes are in force.
    pub(super) async fn node_is_up(&mut self) {
        let up = self.running.as_ref().is_some_and(|r| r.applied && r.map.me.is_some());
        // A fresh join waits for the coordinator to know about the offered routes, so that the answer
        // says which of them are pending.
        let offered = self.running.as_ref().is_some_and(|r| {
            r.map.me.as_ref().is_some_and(|me| {
                let known = |p| me.approved_routes.contains(p) || me.pending_routes.contains(p);
                !r.link.connected || self.intent.settings.advertise_routes.iter().all(known)
            })
        });
        let looked_at = self.running.as_ref().is_some_and(|r| !r.trouble.scan.is_awaited());
        if !(up && offered && looked_at && self.names.is_settled()) || self.waiting.is_empty() {
            return;
        }
        if let Some(why) = &self.unstored {
            let failure = Failure::new(
                format!("this node is in the mesh, but could not write that down: {why}"),
                "a restart would forget it: make room on the disk, or let meshd write there; \
                 it tries again by itself, and `meshd status` shows when it is done",
            );
            self.waiting.fail(&failure);
            return;
        }
        let status = self.status().await;
        self.waiting.tell(&Response::last(Tell::Status(Box::new(status))));
    }

    async fn down(&mut self) -> Response {
        let intent = crate::state::Intent { up: false, ..self.intent.clone() };
        if let Err(failure) = self.store_intent(intent) {
            return Response::last(Tell::Failed(failure));
        }
        self.hindrance = Hindrance::None;
        self.join_is_over();
        self.waiting
            .fail(&Failure::new("the node was taken down before it was up", "bring it up: `meshd up`"));
        self.take_down().await;
        Response::last(Tell::Done(Empty {}))
    }

    /// Tells the coordinator, waits for its word, but not for ever; then [`Daemon::left`].
    async fn logout(&mut self, answers: Answers) {
        if let Some((waiting, _)) = &mut self.leaving {
            waiting.add(answers);
            return;
        }
        let mut waiting = Waiting::default();
        waiting.add(answers);
        self.leaving = Some((waiting, clock::timer_now() + LEAVE_LIMIT));
        let asked = match &self.running {
            Some(running) => running.tell_control(Command::Leave),
            None => false,
        };
        if !asked {
            self.left(false).await;
        }
    }

    /// The farewell is over: forgets mesh and keys, and says so. `told`: the coordinator knows.
    pub(super) async fn left(&mut self, told: bool) {
        let Some((mut waiting, _)) = self.leaving.take() else { return };
        // One that the coordinator put out, and one that never was in, has nobody to tell.
        let told = told || self.membership.is_none() || matches!(self.hindrance, Hindrance::Revoked(_));
        let name = self.running.as_ref().and_then(|r| r.map.me.as_ref()).map(|me| me.name.to_string());
        let response = self.down().await;
        let forgotten = self.state.forget().and_then(|()| self.state.identity(super::new_identity));
        match forgotten {
            Ok(identity) => {
                self.identity = identity;
                self.membership = None;
                self.unstored = None;
                if !told {
                    let name = name.unwrap_or_else(|| "NAME".to_owned());
                    waiting.tell(&Response::more(Tell::Progress(format!(
                        "the coordinator could not be told: there this node is still a member, \
                         until an admin says `meshd-coordinator nodes remove {name}`"
                    ))));
                }
                waiting.tell(&response);
            }
            Err(error) => waiting.fail(&Failure::new(error.to_string(), "")),
        }
    }

    async fn set(&mut self, patch: &Patch) -> Response {
        let stored = self
            .patched(patch)
            .and_then(|settings| self.store_intent(crate::state::Intent { settings, ..self.intent.clone() }));
        if let Err(failure) = stored {
            return Response::last(Tell::Failed(failure));
        }
        self.apply_settings().await;
        Response::last(Tell::Status(Box::new(self.status().await)))
    }

    /// The settings with `patch` on top, checked against the mesh this node is in.
    fn patched(&self, patch: &Patch) -> Result<crate::settings::Settings, Failure> {
        let refused = |e: crate::settings::SettingsError| Failure {
            exit_code: 2,
            ..Failure::new(e.to_string(), "nothing was changed")
        };
        let settings = self.intent.settings.patched(patch).map_err(refused)?;
        if let Some(me) = self.running.as_ref().and_then(|r| r.map.me.as_ref()) {
            settings.check_against(&me.prefixes).map_err(refused)?;
        }
        Ok(settings)
    }

    /// On disk first, then in force.
    fn store_intent(&mut self, intent: crate::state::Intent) -> Result<(), Failure> {
        self.state.set_intent(&intent).map_err(|e| {
            Failure::new(e.to_string(), "nothing was changed; is the disk full or read-only?")
        })?;
        self.intent = intent;
        Ok(())
    }

    fn ping(&mut self, ping: &Ping, answers: &Answers) -> Result<(), Failure> {
        let running = self
            .running
            .as_ref()
            .ok_or_else(|| Failure::new("this node is down", "bring it up: `meshd up`"))?;
        let peer = find_peer(&running.map, &ping.target)?.clone();
        if peer.kind == PeerKind::PlainWireguard {
            let why = format!("{} is a plain WireGuard device, which knows no probes", peer.name);
            return Err(Failure::new(why, format!("use the system's ping: ping {}", peer.addrs.v4)));
        }
        let wait = Duration::from_millis(ping.timeout_ms.into()).min(MAX_PING);
        let (reply, result) = oneshot::channel();
        let (mesh, answers, map) = (running.mesh.clone(), answers.clone(), Arc::clone(&running.map));
        self.answers.spawn(async move {
            let command = MeshCommand::Ping { peer: peer.id, until: clock::now() + wait, reply };
            if mesh.send(command).await.is_err() {
                return;
            }
            let pong = tokio::select! {
                pong = result => pong.ok().flatten(),
                // Nobody is there to hear it; with its receiver the ping ends.
                () = answers.closed() => return,
            };
            let (path, via) = pong.map_or(("none", String::new()), |p| match p.via {
                Via::Udp(endpoint) => ("direct", endpoint.to_string()),
                Via::Relay { relay, .. } => ("relay", status::relay_name(&map, relay)),
            });
            let pong = Pong {
                name: peer.name.to_string(),
                address: peer.addrs.v4.to_string(),
                answered: pong.is_some(),
                rtt_us: pong.map_or(0, |p| u64::try_from(p.rtt.as_micros()).unwrap_or(u64::MAX)),
                path: path.to_owned(),
                via,
            };
            let _ = answers.send(Response::last(Tell::Pong(pong))).await;
        });
        Ok(())
    }

    fn explain_name(&mut self, question: NameQuestion, answers: Answers) {
        let names = self.names.answering();
        self.answers.spawn(async move {
            let tell = match names.query(&question.name, &question.kind).await {
                Ok(queried) => Tell::Named(NameAnswer {
                    steps: queried.steps,
                    code: queried.code,
                    authoritative: queried.authoritative,
                    records: queried.records,
                    why: queried.why,
                    took_us: u64::try_from(queried.took.as_micros()).unwrap_or(u64::MAX),
                }),
                Err(error) => Tell::Failed(Failure { exit_code: 2, ..Failure::new(error.to_string(), "") }),
            };
            let _ = answers.send(Response::last(tell)).await;
        });
    }

    fn logs(&mut self, logs: Logs, answers: Answers) {
        let mut live = self.ring.follow();
        let lines = self.ring.last(usize::try_from(logs.lines).unwrap_or(MAX_LOG_LINES).min(MAX_LOG_LINES));
        self.answers.spawn(async move {
            for line in lines {
                if answers.send(Response::more(Tell::LogLine(line))).await.is_err() {
                    return;
                }
            }
            if !logs.follow {
                let _ = answers.send(Response::last(Tell::Done(Empty {}))).await;
                return;
            }
            loop {
                let line = tokio::select! {
                    line = live.recv() => line,
                    () = answers.closed() => return,
                };
                match line {
                    Ok(line) => {
                        if answers.send(Response::more(Tell::LogLine(line))).await.is_err() {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                }
            }
            let _ = answers.send(Response::last(Tell::Done(Empty {}))).await;
        });
    }

    async fn create_device(&mut self, device: &Device, answers: &Answers) -> Result<(), Failure> {
        let bad = |e: String| Failure { exit_code: 2, ..Failure::new(e, "") };
        let name: Hostname =
            device.name.parse().map_err(|e: meshd_proto::id::NameError| bad(e.to_string()))?;
        let key: NodeKey =
            device.public_key.parse().map_err(|e: meshd_proto::keys::KeyError| bad(e.to_string()))?;
        let running = self.running.as_mut().filter(|r| r.link.connected).ok_or_else(|| {
            Failure::new("a device is joined by the coordinator, which is away", "try again later")
        })?;
        if let Some(secret) = &device.preshared_key {
            let secret =
                secret.as_slice().try_into().map_err(|_| bad("a preshared key has 32 bytes".into()))?;
            let failed = |e: crate::state::StateError| Failure::new(e.to_string(), "nothing was changed");
            let mut all = self.state.preshared().map_err(failed)?;
            // Those of devices that are gone go with the next one.
            all.retain(|known, _| running.map.peers.values().any(|p| p.key == *known));
            all.insert(key, Preshared(secret));
            self.state.set_preshared(&all).map_err(failed)?;
            running.tell_mesh(MeshCommand::Preshared(all)).await;
        }
        let id = running.calls.add(answers.clone());
        if !running.tell_control(Command::Call { id, call: Call::CreateDevice { name, key } }) {
            running.calls.take(id);
            return Err(Failure::new(
                "too many calls wait for the coordinator",
                "try again in a few seconds",
            ));
        }
        Ok(())
    }

    /// The coordinator answered a call.
    pub(super) fn call_answered(&mut self, id: u64, answer: Answer) {
        let Some(running) = &mut self.running else { return };
        let Some(client) = running.calls.take(id) else { return };
        let tell = match answer {
            Answer::Done => Tell::Done(Empty {}),
            Answer::Failed { message, hint } => Tell::Failed(Failure::new(message, hint)),
            Answer::Device { addrs, .. } => {
                let addresses = vec![format!("{}/32", addrs.v4), format!("{}/128", addrs.v6)];
                Tell::Device(device_config(running, &self.identity.node.public(), addresses))
            }
        };
        let _ = client.try_send(Response::last(tell));
    }
}

fn device_config(running: &super::Running, own_key: &NodeKey, addresses: Vec<String>) -> DeviceConfig {
    let map = &running.map;
    let me = map.me.as_ref();
    let mut allowed: Vec<String> =
        me.iter().flat_map(|m| [m.prefixes.v4.to_string(), m.prefixes.v6.to_string()]).collect();
    let mine = me.iter().flat_map(|m| m.approved_routes.iter());
    let others = map.routes.iter().map(|r| &r.prefix);
    // Host routes inside the mesh range are covered by the range.
    let outside =
        |p: &&meshd_proto::Prefix| !p.is_default() && me.is_none_or(|m| !m.prefixes.contains(p.net().addr()));
    for prefix in mine.chain(others).filter(outside) {
        let text = prefix.to_string();
        if !allowed.contains(&text) {
            allowed.push(text);
        }
    }
    DeviceConfig {
        addresses,
        peer_key: own_key.to_string(),
        endpoint: outside_endpoint(&running.place.endpoints).map(ToString::to_string).unwrap_or_default(),
        allowed_ips: allowed,
        dns: me.map(|m| m.prefixes.resolver().v4.to_string()).into_iter().collect(),
        search: map.dns.config.as_ref().map(|c| c.domain.to_string()).unwrap_or_default(),
    }
}

/// Where a device on the internet reaches this node: mapped or own addresses of IPv4 first, since every
/// network has that; never an address of a LAN unless there is nothing else.
fn outside_endpoint(endpoints: &[Endpoint]) -> Option<&Endpoint> {
    let rank = |e: &&Endpoint| match e.0.ip() {
        IpAddr::V4(v4) if !v4.is_private() && !v4.is_link_local() => 0,
        IpAddr::V6(v6) if !v6.is_unique_local() && !v6.is_unicast_link_local() => 1,
        _ => 2,
    };
    endpoints.iter().min_by_key(rank)
}

fn how_to_join() -> Failure {
    Failure {
        message: "this node is in no mesh yet".to_owned(),
        hint: "join one with a token:\n  \
               on the coordinator:  meshd-coordinator token create\n  \
               here:                meshd up mesh_…    (or --token-file FILE, or - for standard input)\n  \
               without a token:     meshd up --coordinator https://…    (an admin approves a code)\n  \
               no coordinator yet?  run `meshd-coordinator serve` on a machine that others can reach"
            .to_owned(),
        exit_code: 2,
    }
}
