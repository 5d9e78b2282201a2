//! Forms as browsers send them (application/x-www-form-urlencoded), read into names and values.

use super::guard::PageError;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use std::collections::HashMap;

/// A form's fields. A name that comes several times keeps all of its values.
#[derive(Debug, Default)]
pub(super) struct Form(HashMap<String, Vec<String>>);

impl Form {
    pub(super) fn read(text: &[u8]) -> Self {
        let mut fields: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in pairs(text) {
            fields.entry(name).or_default().push(value);
        }
        Self(fields)
    }

    /// The first value; empty when the field did not come.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    /// The value without space around it; `None` when there is nothing.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        Some(self.text(name).trim()).filter(|t| !t.is_empty())
    }

    /// Whether a box was ticked.
    pub(super) fn ticked(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// A number, or what is missing.
    pub(super) fn number(&self, name: &str, what: &str) -> Result<u64, crate::service::ServiceError> {
        let wrong = || crate::service::ServiceError::Invalid(format!("{what} is a whole number"));
        self.text(name).trim().parse().map_err(|_| wrong())
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        let too_much =
            |_| PageError::new(StatusCode::PAYLOAD_TOO_LARGE, "This is more than is taken at once.");
        let bytes = Bytes::from_request(request, state).await.map_err(too_much)?;
        Ok(Self::read(&bytes))
    }
}

/// Names and values in order. What is no valid escape or UTF-8 is kept as far as it is text.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (String, String)> + '_ {
    text.split(|b| *b == b'&').filter(|pair| !pair.is_empty()).take(1000).map(|pair| {
        let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (unescape(&pair[..at]), unescape(pair.get(at + 1..).unwrap_or_default()))
    })
}

fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            (byte, _) => out.push(*byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A text as a value in a query.
pub(super) fn escape(text: &str) -> String {
    crate::client::segment(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let form = Form::read(b"name=a+b%26c&tag=x&tag=y&empty=&on=on&bad=%zz%4&%F0%9F%90%9F=fish");
        assert_eq!((form.text("name"), form.all("tag").len()), ("a b&c", 2));
        assert_eq!((form.filled("empty"), form.ticked("on"), form.ticked("off")), (None, true, false));
        assert_eq!((form.text("bad"), form.text("\u{1f41f}")), ("%zz%4", "fish"));
        assert!(form.number("name", "x").is_err());
        let turned = escape("a b&c/ü");
        assert_eq!(unescape(turned.as_bytes()), "a b&c/ü");
    }
}
