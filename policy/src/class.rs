//! What a policy knows of a node: its class.

use meshd_proto::Tag;

/// What makes nodes one policy class: the same owner and tags. Groups follow from the owner.
///
/// A node with tags belongs to nobody: its owner, if one is given, counts for nothing here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClassKey {
    /// The name by which a policy text names the owner. Whoever fills it in answers for it: two
    /// people never have the same name here.
    pub owner: Option<String>,
    /// The nodes' tags.
    pub tags: Vec<Tag>,
}

impl ClassKey {
    /// The class of nodes that belong to `name`.
    pub fn user(name: &str) -> Self {
        Self { owner: Some(name.to_owned()), tags: Vec::new() }
    }

    /// The class of nodes with exactly these tags.
    pub fn tagged(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self { owner: None, tags: tags.into_iter().collect() }
    }

    /// The user it belongs to; `None` when it has tags or no owner.
    pub fn user_name(&self) -> Option<&str> {
        self.owner.as_deref().filter(|name| self.tags.is_empty() && !name.is_empty())
    }
}
