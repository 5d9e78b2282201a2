//! The two meshes that are measured, as data: names, tags, owners, policies, and whom a change concerns.

use std::collections::BTreeSet;

/// Policy classes in [`Mesh::Classes`].
pub(crate) const CLASSES: usize = 20;
/// Shared servers in [`Mesh::Owners`].
pub(crate) const SERVERS: usize = 20;
/// Nodes that are interested in where the first one is.
pub(crate) const INTERESTED: usize = 10;

/// Who is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mesh {
    /// Twenty tags; each may reach the next one in the ring.
    Classes,
    /// The first twenty nodes are servers, every other one belongs to an owner of its own; members reach
    /// the servers.
    Owners,
}

/// What kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first node moves to another address.
    Endpoint,
    /// One node gets other tags.
    Tag,
    /// Another policy comes into force.
    Policy,
}

impl Mesh {
    /// For the report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Classes => "20 policy classes",
            Self::Owners => "one owner per node",
        }
    }

    /// As an argument.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Owners => "owners",
        }
    }

    /// Reads [`Mesh::word`].
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Classes, Self::Owners].into_iter().find(|m| m.word() == word)
    }

    /// The tag of node `i`; `None`: it belongs to an owner of its own.
    pub(crate) fn tag(self, i: usize) -> Option<String> {
        match self {
            Self::Classes => Some(format!("tag:t{}", i % CLASSES)),
            Self::Owners => (i < SERVERS).then(|| "tag:server".to_owned()),
        }
    }

    /// The node that gets another tag, and which.
    pub(crate) fn retagged(self, size: usize) -> (usize, String) {
        match self {
            Self::Classes => (CLASSES + 5, "tag:t10".to_owned()),
            Self::Owners => (size - 1, "tag:lab".to_owned()),
        }
    }

    /// The policy, before and after the change.
    pub(crate) fn policy(self, changed: bool) -> String {
        let rules: Vec<String> = match self {
            Self::Classes => (0..CLASSES)
                .map(|i| {
                    let port = if changed && i == 3 { "443" } else { "22" };
                    rule(&format!("tag:t{i}"), &format!("tag:t{}:{port}", (i + 1) % CLASSES))
                })
                .collect(),
            Self::Owners => {
                let port = if changed { "443,8443" } else { "443" };
                vec![
                    rule("autogroup:member", &format!("tag:server:{port}")),
                    rule("autogroup:member", "autogroup:self:*"),
                    rule("tag:lab", "tag:lab:*"),
                ]
            }
        };
        format!("{{\"acls\":[{}]}}", rules.join(","))
    }

    /// The nodes interested in the first one; they see it.
    pub(crate) fn interested(self) -> impl Iterator<Item = usize> {
        (0..INTERESTED).map(move |i| match self {
            Self::Classes => 1 + i * CLASSES,
            Self::Owners => SERVERS + i,
        })
    }

    /// Exactly the nodes whose map or hints a change touches.
    pub(crate) fn concerned(self, change: Change, size: usize) -> BTreeSet<usize> {
        let class = |c: usize| (0..size).filter(move |i| i % CLASSES == c % CLASSES);
        match (self, change) {
            (_, Change::Endpoint) => self.interested().filter(|i| *i < size).collect(),
            // From class 5 to class 10: the neighbours of both in the ring, and the node itself.
            (Self::Classes, Change::Tag) => {
                let (node, _) = self.retagged(size);
                [4, 6, 9, 11].into_iter().flat_map(class).chain([node]).collect()
            }
            // Only the filter of the class that may be reached differently.
            (Self::Classes, Change::Policy) => class(4).collect(),
            // The servers lose a member; the member loses the servers.
            (Self::Owners, Change::Tag) => (0..SERVERS).chain([self.retagged(size).0]).collect(),
            (Self::Owners, Change::Policy) => (0..SERVERS).collect(),
        }
    }
}

fn rule(src: &str, dst: &str) -> String {
    format!("{{\"action\":\"accept\",\"src\":[\"{src}\"],\"dst\":[\"{dst}\"]}}")
}
