//! JSON with comments and trailing commas, where every value knows its line and column.
//!
//! A parser of our own, because the diagnostics of a policy need the place of each value, and because
//! a duplicate key must be an error. Bounds: [`MAX_TEXT`] bytes, [`MAX_DEPTH`] levels, [`MAX_VALUES`]
//! values. The first syntax error ends the reading.

use crate::diagnostic::{Pos, quoted};
use std::collections::BTreeSet;

/// Longest policy text in bytes.
pub(crate) const MAX_TEXT: usize = 1 << 20;
/// Deepest nesting; a policy needs four levels.
const MAX_DEPTH: usize = 16;
/// Most values in one text.
const MAX_VALUES: usize = 200_000;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) pos: Pos,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    Text(String),
    Array(Vec<Value>),
    Object(Vec<Member>),
}

/// One `"key": value` of an object; keys are unique within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pos: Pos,
    pub(crate) key: String,
    pub(crate) value: Value,
}

/// The first thing that is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) pos: Pos,
    pub(crate) message: String,
}

impl Kind {
    /// For messages: "a list", "text", ….
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// Reads one value and nothing behind it.
pub(crate) fn parse(text: &str) -> Result<Value, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { rest: text, pos: Pos { line: 1, column: 1 }, values: 0 };
    if text.len() > MAX_TEXT {
        return Err(
            reader.error(format!("the policy has {} bytes; at most {MAX_TEXT} are accepted", text.len()))
        );
    }
    reader.skip_space()?;
    let value = reader.value(0)?;
    reader.skip_space()?;
    match reader.peek() {
        None => Ok(value),
        Some(c) => Err(reader.error(format!("{} stands behind the end of the policy: remove it", show(c)))),
    }
}

struct Reader<'a> {
    rest: &'a str,
    pos: Pos,
    values: usize,
}

impl Reader<'_> {
    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError { pos: self.pos, message: message.into() }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.pos = Pos { line: self.pos.line + 1, column: 1 };
        } else {
            self.pos.column += 1;
        }
        Some(c)
    }

    fn eat(&mut self, wanted: &str) -> bool {
        if !self.rest.starts_with(wanted) {
            return false;
        }
        for _ in wanted.chars() {
            self.next();
        }
        true
    }

    fn skip_space(&mut self) -> Result<(), SyntaxError> {
        loop {
            let start = self.pos;
            if self.eat("//") {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.next();
                }
            } else if self.eat("/*") {
                while !self.eat("*/") {
                    if self.next().is_none() {
                        let message = "the comment that begins here does not end: write `*/`".to_owned();
                        return Err(SyntaxError { pos: start, message });
                    }
                }
            } else if matches!(self.peek(), Some(' ' | '\t' | '\r' | '\n')) {
                self.next();
            } else {
                return Ok(());
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error(format!("the policy has more than {MAX_VALUES} values")));
        }
        if depth > MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let pos = self.pos;
        let kind = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.array(depth)?,
            Some('"') => Kind::Text(self.text()?),
            Some('-' | '0'..='9') => self.number()?,
            Some(c) if c.is_alphabetic() => self.word()?,
            Some(c) => return Err(self.error(format!("{} is not the beginning of a value", show(c)))),
            None => return Err(self.error("the policy ends where a value is expected")),
        };
        Ok(Value { pos, kind })
    }

    fn object(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.next();
        let (mut members, mut keys) = (Vec::new(), BTreeSet::new());
        loop {
            self.skip_space()?;
            if self.eat("}") {
                return Ok(Kind::Object(members));
            }
            let pos = self.pos;
            if self.peek() != Some('"') {
                return Err(self.expected("a key in double quotes or `}`"));
            }
            let key = self.text()?;
            if !keys.insert(key.clone()) {
                let message = format!("the key {} appears twice here: join the two", quoted(&key));
                return Err(SyntaxError { pos, message });
            }
            self.skip_space()?;
            if !self.eat(":") {
                return Err(self.expected("`:` behind the key"));
            }
            self.skip_space()?;
            let value = self.value(depth + 1)?;
            members.push(Member { pos, key, value });
            self.skip_space()?;
            if !self.eat(",") && self.peek() != Some('}') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.next();
        let mut items = Vec::new();
        loop {
            self.skip_space()?;
            if self.eat("]") {
                return Ok(Kind::Array(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_space()?;
            if !self.eat(",") && self.peek() != Some(']') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn expected(&self, what: &str) -> SyntaxError {
        let found = self.peek().map_or("the end of the policy".to_owned(), show);
        self.error(format!("expected {what}, found {found}"))
    }

    fn text(&mut self) -> Result<String, SyntaxError> {
        let start = self.pos;
        self.next();
        let mut out = String::new();
        loop {
            match self.peek() {
                Some('"') => {
                    self.next();
                    return Ok(out);
                }
                Some('\\') => out.push(self.escape()?),
                Some(c) if c >= ' ' => {
                    out.push(c);
                    self.next();
                }
                Some('\n') | None => {
                    let message = "the text that begins here does not end on its line: close it with `\"`";
                    return Err(SyntaxError { pos: start, message: message.to_owned() });
                }
                Some(c) => return Err(self.error(format!("{} in a text: write it as an escape", show(c)))),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let start = self.pos;
        self.next();
        let plain = match self.next() {
            Some('u') => return self.unicode_escape(start),
            Some('"') => '"',
            Some('\\') => '\\',
            Some('/') => '/',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            _ => {
                let message = "not an escape of JSON: a backslash itself is written `\\\\`";
                return Err(SyntaxError { pos: start, message: message.to_owned() });
            }
        };
        Ok(plain)
    }

    fn unicode_escape(&mut self, start: Pos) -> Result<char, SyntaxError> {
        let broken = || SyntaxError { pos: start, message: "not a valid \\u escape".to_owned() };
        let first = self.four_hex().ok_or_else(broken)?;
        let code = match first {
            0xd800..=0xdbff if self.eat("\\u") => {
                let second =
                    self.four_hex().filter(|low| (0xdc00..=0xdfff).contains(low)).ok_or_else(broken)?;
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or_else(broken)
    }

    fn four_hex(&mut self) -> Option<u32> {
        let mut code = 0;
        for _ in 0..4 {
            code = code * 16 + self.peek()?.to_digit(16)?;
            self.next();
        }
        Some(code)
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.pos;
        let mut raw = String::new();
        while let Some(c @ ('-' | '+' | '.' | 'e' | 'E' | '0'..='9')) = self.peek() {
            raw.push(c);
            self.next();
        }
        if raw.parse::<f64>().is_err() || raw.len() > 32 {
            return Err(SyntaxError { pos: start, message: format!("{} is not a number", quoted(&raw)) });
        }
        Ok(Kind::Number(raw))
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.pos;
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_alphanumeric()) {
            word.push(c);
            self.next();
        }
        match word.as_str() {
            "null" => Ok(Kind::Null),
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            _ => Err(SyntaxError { pos: start, message: format!("{} stands without quotes", quoted(&word)) }),
        }
    }
}

fn show(c: char) -> String {
    if c.is_control() { format!("the character U+{:04X}", u32::from(c)) } else { format!("`{c}`") }
}

#[cfg(test)]
mod tests;
