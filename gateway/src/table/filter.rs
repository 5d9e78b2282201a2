//! What a rule changes in requests and responses, ready to apply.

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// All changes of a rule.
#[derive(Debug, Default)]
pub struct Edits {
    /// Header fields of the request.
    pub request: HeaderEdits,
    /// Header fields of the response.
    pub response: HeaderEdits,
    /// An answer in place of the backend's.
    pub redirect: Option<RedirectTo>,
    /// The host name towards the backend.
    pub hostname: Option<HeaderValue>,
    /// The path towards the backend.
    pub path: Option<PathEdit>,
}

/// Changes of header fields: removed, set, added.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    pub(super) remove: Vec<HeaderName>,
    pub(super) set: Vec<(HeaderName, HeaderValue)>,
    pub(super) add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole.
    Full(String),
    /// In place of the prefix that matched.
    Prefix(String),
}

impl PathEdit {
    /// The new path for `path`, of which `prefix` matched.
    pub fn apply(&self, path: &str, prefix: &str) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(new) => {
                let rest = path.strip_prefix(prefix).unwrap_or(path).trim_start_matches('/');
                let new = new.trim_end_matches('/');
                if rest.is_empty() {
                    if new.is_empty() { "/".to_owned() } else { new.to_owned() }
                } else {
                    format!("{new}/{rest}")
                }
            }
        }
    }
}

/// Where a client is sent.
#[derive(Debug)]
pub struct RedirectTo {
    /// `http` or `https`; the request's own otherwise.
    pub scheme: Option<&'static str>,
    /// Another host.
    pub hostname: Option<String>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathEdit>,
    /// The status of the answer.
    pub status: StatusCode,
}

impl RedirectTo {
    /// The `Location` for a request to `scheme://host:port` + `path` + `query`, of which `prefix` matched.
    pub fn location(
        &self,
        scheme: &str,
        host: &str,
        port: u16,
        path: &str,
        query: Option<&str>,
        prefix: &str,
    ) -> String {
        let to = self.scheme.unwrap_or(scheme);
        // Gateway API: the port of a named scheme, else the listener's.
        let port = self.port.unwrap_or(match self.scheme {
            Some("https") => 443,
            Some(_) => 80,
            None => port,
        });
        let usual = (to == "https" && port == 443) || (to == "http" && port == 80);
        let port = if usual { String::new() } else { format!(":{port}") };
        let host = self.hostname.as_deref().unwrap_or(host);
        let path = self.path.as_ref().map_or_else(|| path.to_owned(), |edit| edit.apply(path, prefix));
        let query = query.map_or_else(String::new, |q| format!("?{q}"));
        format!("{to}://{host}{port}{path}{query}")
    }
}

impl Edits {
    /// Whether anything of a request or response is changed.
    pub fn touches(&self) -> bool {
        let empty = |h: &HeaderEdits| h.remove.is_empty() && h.set.is_empty() && h.add.is_empty();
        self.hostname.is_some() || self.path.is_some() || !empty(&self.request) || !empty(&self.response)
    }
}
