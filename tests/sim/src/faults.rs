//! Faults that are put into a copy of the engine, to see that the simulation notices them (`make sim-mutants`).
//! All are built into one copy; [`SWITCH`] chooses the one that is there when it runs.

/// What is added to the copy's root: whether the fault of this name is the one that was asked for.
pub const SWITCH: &str = r#"
/// Whether this fault is the one that `MESHD_FAULT` names.
pub(crate) fn faulty(name: &str) -> bool {
    static FAULT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    FAULT.get_or_init(|| std::env::var("MESHD_FAULT").unwrap_or_default()) == name
}
"#;

/// A piece of source in place of another.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The file, from the root of the workspace.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub right: &'static str,
    /// What stands there with the fault in it, behind `crate::faulty`.
    pub wrong: &'static str,
}

impl Edit {
    /// The text of the file with the fault in it.
    ///
    /// # Errors
    /// When the place is not there exactly once: the engine has changed, the fault has to follow.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        match text.matches(self.right).count() {
            1 => Ok(text.replace(self.right, self.wrong)),
            n => Err(format!("{}: {n} places, not one, look like {:?}", self.file, self.right)),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// For the table, and to choose it.
    pub name: &'static str,
    /// Where it is.
    pub edits: &'static [Edit],
}

const PROBING: &str = "engine/src/engine/probing.rs";
const WATCH: &str = "engine/src/path/watch.rs";
const PATH: &str = "engine/src/path.rs";
const MAP: &str = "engine/src/engine/map.rs";

/// All of them.
pub const FAULTS: [Fault; 14] = [
    Fault {
        name: "no-demotion",
        edits: &[Edit {
            file: WATCH,
            right: "        if !unanswered {\n",
            wrong: "        if !unanswered || (health == Health::Good && crate::faulty(\"no-demotion\")) {\n",
        }],
    },
    Fault {
        name: "no-tombstone",
        edits: &[Edit {
            file: MAP,
            right: "            if !same {\n                self.remove_peer(id);\n",
            wrong: "            if !same && !crate::faulty(\"no-tombstone\") {\n                self.remove_peer(id);\n",
        }],
    },
    Fault {
        name: "filter-not-rechecked",
        edits: &[
            Edit {
                file: "engine/src/data/conntrack.rs",
                right: "if standing == Standing::Cut || entry.generation != when.generation {",
                wrong: "if !crate::faulty(\"filter-not-rechecked\")\n && (standing == Standing::Cut || entry.generation != when.generation) {",
            },
            Edit {
                file: "engine/src/data/conntrack/table.rs",
                right: "        self.standing = Standing::Cut;\n",
                wrong: "        self.standing =\n if crate::faulty(\"filter-not-rechecked\") { Standing::Live } else { Standing::Cut };\n",
            },
        ],
    },
    Fault {
        name: "filter-off",
        edits: &[Edit {
            file: "engine/src/data/open.rs",
            right: "            Inbound::Denied => Err(DropReason::Denied),\n",
            wrong: "            Inbound::Denied if crate::faulty(\"filter-off\") => Ok(packet),\n\
                    Inbound::Denied => Err(DropReason::Denied),\n",
        }],
    },
    Fault {
        name: "hint-lost",
        edits: &[Edit {
            file: PROBING,
            right: "        let list = self.listed(&hint.endpoints);\n        let id = hint.node;\n",
            wrong: "        let list = self.listed(&hint.endpoints);\n        let id = NodeId(hint.node.0 + if crate::faulty(\"hint-lost\") { 1000 } else { 0 });\n",
        }],
    },
    Fault {
        name: "pong-on-wrong-path",
        edits: &[Edit {
            file: PROBING,
            right: "        self.send_probe(id, from, txid, Content::Pong { observed }, now);\n",
            wrong: "        let other = self.peers.get(id).and_then(|s| s.paths.over_relay());\n        \
                    let other = other.filter(|_| crate::faulty(\"pong-on-wrong-path\"));\n        \
                    self.send_probe(id, other.unwrap_or(from), txid, Content::Pong { observed }, now);\n",
        }],
    },
    Fault {
        name: "restart-unnoticed",
        edits: &[Edit {
            file: PROBING,
            right: "        if probe.has_session && !self.is_ready(id, now) {\n",
            wrong: "        if probe.has_session && !self.is_ready(id, now) && !crate::faulty(\"restart-unnoticed\") {\n",
        }],
    },
    Fault {
        name: "break-before-make",
        edits: &[Edit {
            file: PATH,
            right: "let also = if health == Health::Good { None } else { relay() };",
            wrong: "let also = if health == Health::Good\n || (crate::faulty(\"break-before-make\") && health != Health::Idle) { None } else { relay() };",
        }],
    },
    Fault {
        name: "link-change-ignored",
        edits: &[Edit {
            file: "engine/src/engine/wan.rs",
            right: "        self.stun.forget();\n        self.stun.start(now);\n",
            wrong: "        if crate::faulty(\"link-change-ignored\") {\n            return;\n        }\n        \
                    self.stun.forget();\n        self.stun.start(now);\n",
        }],
    },
    Fault {
        name: "candidates-not-told",
        edits: &[Edit {
            file: PROBING,
            right: "            endpoints: self.endpoints.iter().copied().take(MAX_CANDIDATES).collect(),\n",
            wrong: "            endpoints: self.endpoints.iter().copied()\n.take(if crate::faulty(\"candidates-not-told\") { 0 } else { MAX_CANDIDATES }).collect(),\n",
        }],
    },
    Fault {
        name: "no-handshake-retry",
        edits: &[Edit {
            file: "engine/src/engine/handshake.rs",
            right: "        self.timers.set(Timer::Handshake(id), now + wait + jitter);\n",
            wrong: "        self.timers.set(Timer::Handshake(id), now + wait + jitter + wait * if crate::faulty(\"no-handshake-retry\") { 600 } else { 0 });\n",
        }],
    },
    Fault {
        name: "dead-router-kept",
        edits: &[Edit {
            file: "engine/src/engine/owners.rs",
            right: "        state.duty.dead = true;\n",
            wrong: "        state.duty.dead = !crate::faulty(\"dead-router-kept\");\n        if !state.duty.dead {\n            \
                    return;\n        }\n",
        }],
    },
    Fault {
        name: "dead-socket-kept",
        edits: &[Edit {
            file: "engine/src/engine/meeting.rs",
            right: "        if state.adopted == Some(endpoint) {\n",
            wrong: "        if state.adopted == Some(endpoint) && !crate::faulty(\"dead-socket-kept\") {\n",
        }],
    },
    Fault {
        name: "expiry-ignored",
        edits: &[Edit {
            file: MAP,
            right: "        let ends = peer.key_expires;\n",
            wrong: "        let ends = peer.key_expires.map(|at| \n UnixSeconds(at.0 + if crate::faulty(\"expiry-ignored\") { 1_000_000 } else { 0 }));\n",
        }],
    },
];
