//! Whether a request fits a rule's match, and which match goes first.

use super::RuleAction;
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Uri};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

/// What rules are chosen by.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target; its path and query count.
    pub uri: &'a Uri,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// One match of a rule, ready to compare.
#[derive(Debug)]
pub struct Candidate {
    pub(super) path: PathRule,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<(HeaderName, Vec<u8>)>,
    pub(super) query: Vec<(String, String)>,
    /// Where it stands among the matches of the listener.
    pub(super) precedence: Precedence,
    /// What happens then.
    pub action: Arc<RuleAction>,
}

/// The path of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathRule {
    Exact(String),
    /// Without a final slash; empty means every path.
    Prefix(String),
}

impl PathRule {
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// The order of matches of one host name: the least goes first (Gateway API `HTTPRouteRule.matches`: exact
/// path, longest prefix, method, most headers, most query parameters; then the order of the configuration).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    pub(super) exact: Reverse<bool>,
    pub(super) prefix: Reverse<usize>,
    pub(super) method: Reverse<bool>,
    pub(super) headers: Reverse<usize>,
    pub(super) query: Reverse<usize>,
    pub(super) order: usize,
}

impl Candidate {
    pub(super) fn rank(&mut self, order: usize) {
        let (exact, prefix) = match &self.path {
            PathRule::Exact(path) => (true, path.len()),
            PathRule::Prefix(path) => (false, path.len()),
        };
        self.precedence = Precedence {
            exact: Reverse(exact),
            prefix: Reverse(prefix),
            method: Reverse(self.method.is_some()),
            headers: Reverse(self.headers.len()),
            query: Reverse(self.query.len()),
            order,
        };
    }

    /// The prefix that matches, for rewriting; empty for an exact path and for every path.
    pub fn prefix(&self) -> &str {
        match &self.path {
            PathRule::Exact(_) => "",
            PathRule::Prefix(prefix) => prefix,
        }
    }

    /// Whether `request` fits.
    pub fn fits(&self, request: &RequestLine<'_>) -> bool {
        self.path.fits(request.uri.path())
            && self.method.as_ref().is_none_or(|m| m == request.method)
            && self.headers.iter().all(|(name, value)| {
                request.headers.get_all(name).iter().any(|given| given.as_bytes() == value.as_slice())
            })
            && self.query.iter().all(|(name, value)| {
                parameter(request.uri.query().unwrap_or_default(), name).is_some_and(|given| given == *value)
            })
    }
}

/// The first value of a query parameter, decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key) == name).then(|| decoded(value))
    })
}

/// Form decoding: `+` is a space, `%XX` a byte. What is not valid stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', _, _) => {
                out.push(b' ');
                at += 1;
            }
            (other, _, _) => {
                out.push(other);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or_else(|_| Cow::Borrowed(text), Cow::Owned)
}
