//! Where HTTP/1 messages of a connection begin and end, so that nobody can disagree with us about it.
//!
//! hyper reads the messages; this walks the same bytes before it and refuses what two servers may read in
//! two ways (RFC 9112 §6.1, §6.3, §11.2): both `Content-Length` and `Transfer-Encoding`, either of them
//! twice, a length that is no plain number, any transfer coding but `chunked`, a line folded or a space
//! before the colon, a bare CR or LF, and control characters in a header.
//!
//! Invariants: bytes of a header are released only when the whole header was looked at · memory is bounded
//! by the header limit · after a refusal nothing is ever released again.

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// The header is longer than allowed.
    TooLong,
    /// Both a length and a transfer coding.
    LengthAndCoding,
    /// A length twice, or not a plain number.
    Length,
    /// A transfer coding that is not `chunked` alone.
    Coding,
    /// A line that could be read in two ways.
    Line,
    /// `Host` twice, or missing where it is required.
    Host,
    /// A chunk whose size or end is not as written in the standard.
    Chunk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In or before a header.
    Head,
    /// This many bytes of body remain.
    Sized(u64),
    /// In the size line of a chunk: digits seen, size so far, behind `;`, behind CR.
    Size { digits: u8, size: u64, extension: u16, cr: bool },
    /// This many bytes of a chunk remain.
    Data(u64),
    /// The CR LF behind a chunk: how many of them were seen.
    DataEnd(u8),
    /// In the trailer; bytes of it so far, bytes of this line, behind CR.
    Trailer { total: u32, line: u32, cr: bool },
    /// Another protocol from here on.
    Opaque,
    /// Nothing more.
    Refused(Ambiguous),
}

/// The walk over one connection's bytes.
#[derive(Debug)]
pub struct Framing {
    state: State,
    most: usize,
}

/// What may be done with the bytes in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first bytes, so many, are fine.
    Release(usize),
    /// A header has begun and is not complete: all of it is kept until more came.
    Wait,
    /// The rest is refused.
    Refuse(Ambiguous),
}

/// Longest trailer.
const MAX_TRAILER: u32 = 16 * 1024;
/// Longest chunk extension.
const MAX_EXTENSION: u16 = 1024;

impl Framing {
    /// At the start of a connection; a header may have `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { state: State::Head, most }
    }

    /// Looks at the next bytes. What is released must not be shown again; what is kept must be.
    pub fn advance(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if rest.is_empty() && !matches!(self.state, State::Refused(_)) {
                return if at == 0 { Step::Wait } else { Step::Release(at) };
            }
            let used = match self.state {
                State::Refused(why) => return if at == 0 { Step::Refuse(why) } else { Step::Release(at) },
                State::Opaque => rest.len(),
                State::Head => match self.head(rest) {
                    Some(length) => length,
                    None if matches!(self.state, State::Refused(_)) => continue,
                    None => return if at == 0 { Step::Wait } else { Step::Release(at) },
                },
                State::Sized(left) => {
                    let used = left.min(rest.len() as u64);
                    self.state = if left == used { State::Head } else { State::Sized(left - used) };
                    used as usize
                }
                State::Data(left) => {
                    let used = left.min(rest.len() as u64);
                    self.state = if left == used { State::DataEnd(0) } else { State::Data(left - used) };
                    used as usize
                }
                State::Size { .. } | State::DataEnd(_) | State::Trailer { .. } => {
                    self.byte(rest[0]);
                    if matches!(self.state, State::Refused(_)) {
                        continue;
                    }
                    1
                }
            };
            at += used;
        }
    }

    /// Looks at a header; its length when it is whole and fine.
    fn head(&mut self, bytes: &[u8]) -> Option<usize> {
        // Empty lines before a request are allowed (RFC 9112 §2.2), a few of them; whole ones, so that it does
        // not matter how much of them is here yet.
        let blank = 2 * bytes.chunks_exact(2).take(4).take_while(|pair| *pair == b"\r\n").count();
        let end = memchr::memmem::find(&bytes[blank..], b"\r\n\r\n").map(|i| blank + i + 4);
        let Some(end) = end.filter(|end| *end <= self.most) else {
            let seen = bytes.len();
            if end.is_some() || seen >= self.most {
                self.state = State::Refused(Ambiguous::TooLong);
            } else if has_bare_newline(bytes) {
                // hyper would take it for the end of a line, and perhaps of the header.
                self.state = State::Refused(Ambiguous::Line);
            }
            return None;
        };
        match after(&bytes[blank..end]) {
            Ok(state) => {
                self.state = state;
                Some(end)
            }
            Err(why) => {
                self.state = State::Refused(why);
                None
            }
        }
    }

    fn byte(&mut self, byte: u8) {
        const FRESH: State = State::Size { digits: 0, size: 0, extension: 0, cr: false };
        let bad = State::Refused(Ambiguous::Chunk);
        self.state = match (self.state, byte) {
            (State::Size { digits, size, cr: true, .. }, b'\n') if digits > 0 => match size {
                0 => State::Trailer { total: 0, line: 0, cr: false },
                size => State::Data(size),
            },
            (State::Size { cr: true, .. }, _) => bad,
            (State::Size { digits, size, extension, .. }, b'\r') if digits > 0 => {
                State::Size { digits, size, extension, cr: true }
            }
            (State::Size { digits, size, extension: 0, .. }, b) if b.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(b).to_digit(16).unwrap_or(0);
                State::Size {
                    digits: digits + 1,
                    size: size << 4 | u64::from(digit),
                    extension: 0,
                    cr: false,
                }
            }
            (State::Size { digits, size, extension: 0, .. }, b';') if digits > 0 => {
                State::Size { digits, size, extension: 1, cr: false }
            }
            (State::Size { digits, size, extension, .. }, b)
                if extension > 0
                    && extension < MAX_EXTENSION
                    && (b == b'\t' || (0x20..0x7f).contains(&b)) =>
            {
                State::Size { digits, size, extension: extension + 1, cr: false }
            }
            (State::DataEnd(0), b'\r') => State::DataEnd(1),
            (State::DataEnd(1), b'\n') => FRESH,
            (State::Trailer { line: 0, cr: true, .. }, b'\n') => State::Head,
            (State::Trailer { total, cr: true, .. }, b'\n') => State::Trailer { total, line: 0, cr: false },
            (State::Trailer { total, line, cr: false }, b'\r') => State::Trailer { total, line, cr: true },
            (State::Trailer { total, line, cr: false }, b)
                if total < MAX_TRAILER && (b == b'\t' || b >= 0x20 && b != 0x7f) =>
            {
                State::Trailer { total: total + 1, line: line + 1, cr: false }
            }
            _ => bad,
        };
    }
}

fn has_bare_newline(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

/// What follows a whole header, from its lines.
fn after(head: &[u8]) -> Result<State, Ambiguous> {
    let mut lines = head[..head.len() - 2].split_inclusive(|b| *b == b'\n').map(|line| {
        let line = line.strip_suffix(b"\r\n").ok_or(Ambiguous::Line)?;
        let odd = |b: &u8| *b < 0x20 && *b != b'\t' || *b == 0x7f;
        if line.iter().any(odd) { Err(Ambiguous::Line) } else { Ok(line) }
    });
    let request = lines.next().ok_or(Ambiguous::Line)??;
    // `METHOD SP target SP HTTP/1.x`, with single spaces and nothing else.
    if request.iter().filter(|b| **b == b' ').count() != 2 || request.contains(&b'\t') {
        return Err(Ambiguous::Line);
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    let (mut upgrade, mut listed) = (false, false);
    for line in lines {
        let line = line?;
        let colon = memchr::memchr(b':', line).ok_or(Ambiguous::Line)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|b| *b <= b' ' || *b >= 0x7f) {
            return Err(Ambiguous::Line);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = plain_number(value).ok_or(Ambiguous::Length)?;
            if length.replace(number).is_some() {
                return Err(Ambiguous::Length);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous::Coding);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            listed |= value.split(|b| *b == b',').any(|v| v.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
    }
    // Both fields, as RFC 9110 §7.8 wants it; one alone changes nothing.
    let opaque = request.starts_with(b"CONNECT ") || upgrade && listed;
    let required = request.ends_with(b"HTTP/1.1");
    if hosts > 1 || hosts == 0 && required {
        return Err(Ambiguous::Host);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Ambiguous::LengthAndCoding),
        (None, true) if !required => Err(Ambiguous::Coding),
        // What comes behind a request to change the protocol is not ours to read. A body with it is refused,
        // since it could hide a second request.
        (None, true) | (Some(1..), _) if opaque => Err(Ambiguous::LengthAndCoding),
        _ if opaque => Ok(State::Opaque),
        (None, true) => Ok(State::Size { digits: 0, size: 0, extension: 0, cr: false }),
        (None | Some(0), false) => Ok(State::Head),
        (Some(length), false) => Ok(State::Sized(length)),
    }
}

fn plain_number(value: &[u8]) -> Option<u64> {
    let plain = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
