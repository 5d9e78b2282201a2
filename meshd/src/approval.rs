//! Joining without a token: this machine asks a coordinator, a person with the right to do so approves it,
//! and the answer is a join token that only this machine gets.
//!
//! Trust: the coordinator is believed because an authority that this system knows vouches for its
//! certificate, or because the user named the certificate's fingerprint; there is no "trust it this once".
//! The token that comes back carries the keys of the control channel, and is used as one that was typed.
//!
//! Invariants: nothing is sent before the certificate was accepted; answers are bounded; the secret of the
//! request and the token are never printed.

mod https;

use crate::clock::now;
use crate::output::CliError;
use meshd_proto::token::JoinToken;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use zeroize::Zeroizing;

/// How often the coordinator is asked whether somebody has decided.
const POLL: Duration = Duration::from_secs(2);
/// Questions in a row that may fail while a machine waits: a coordinator may restart.
const MAX_FAILURES: u32 = 30;
/// Longer than any request lives.
const MAX_PATIENCE: u64 = 3600;

/// A coordinator by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    port: u16,
    /// SHA-256 of its certificate, where no authority vouches for it.
    fingerprint: Option<[u8; 32]>,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Six digits, which the approving page shows, too.
    pub(crate) code: String,
    /// Seconds until the coordinator forgets it.
    pub(crate) patience: u64,
    secret: Zeroizing<String>,
}

#[derive(Deserialize)]
struct AskAnswer {
    code: String,
    secret: String,
    patience: u64,
}

#[derive(Deserialize)]
struct PollAnswer {
    state: String,
    #[serde(default)]
    token: Option<String>,
}

/// A refusal in RFC 9457's form.
#[derive(Deserialize)]
struct Problem {
    detail: String,
    #[serde(default)]
    hint: String,
}

impl Place {
    /// Reads what the user typed.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(url: &str, fingerprint: Option<&str>) -> Result<Self, CliError> {
        let wrong = |what: &str| {
            CliError::usage(
                format!("`{url}` {what}"),
                "write it like https://mesh.example.com or https://192.0.2.1:8443",
            )
        };
        let rest = match url.split_once("://") {
            Some(("https", rest)) => rest,
            Some(("http", _)) => {
                return Err(wrong("is plain HTTP, over which no machine can know whom it talks to"));
            }
            Some(_) => return Err(wrong("is no https:// address")),
            None => url,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(wrong("has a user name in it"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            // The last colon of [2001:db8::1] is inside.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("has no valid port"))?)
            }
            _ => (authority, 443),
        };
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
            return Err(wrong("names no host"));
        }
        let fingerprint = fingerprint.map(parse_fingerprint).transpose()?;
        Ok(Self { host: host.to_owned(), port, fingerprint })
    }

    /// `host:port` as in a URL, without the port that goes without saying.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }

    /// Where a person approves.
    pub(crate) fn approvals(&self) -> String {
        format!("https://{}/approvals", self.authority())
    }
}

fn parse_fingerprint(text: &str) -> Result<[u8; 32], CliError> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok());
    let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
    bytes.filter(|_| digits.is_ascii()).and_then(|b| b.try_into().ok()).ok_or_else(|| {
        CliError::usage(
            "that is not a certificate's fingerprint",
            "it is the 32 bytes behind `Certificate, SHA-256:` that the coordinator prints when it starts",
        )
    })
}

/// Asks to be let in as `name`.
///
/// # Errors
/// When the coordinator cannot be reached, is not trusted, or does not take the request.
pub(crate) fn ask(place: &Place, name: &str) -> Result<Asked, CliError> {
    let body = serde_json::json!({ "hostname": name, "os": std::env::consts::OS });
    let answer: AskAnswer = call(place, "/api/v1/join-requests", &body)?;
    Ok(Asked {
        code: answer.code.chars().filter(char::is_ascii_digit).take(12).collect(),
        patience: answer.patience.min(MAX_PATIENCE),
        secret: answer.secret.into(),
    })
}

/// Waits until somebody has decided: the token that lets this machine in.
///
/// # Errors
/// When somebody said no, nobody said anything, or the coordinator stays away.
pub(crate) fn wait(place: &Place, asked: &Asked) -> Result<JoinToken, CliError> {
    let body = serde_json::json!({ "secret": *asked.secret });
    let until = now() + Duration::from_secs(asked.patience);
    let mut failures = 0;
    while now() < until {
        std::thread::sleep(POLL);
        let answer: PollAnswer = match call(place, "/api/v1/join-requests/poll", &body) {
            Ok(answer) => answer,
            Err(error) if failures >= MAX_FAILURES => return Err(error),
            Err(_) => {
                failures += 1;
                continue;
            }
        };
        failures = 0;
        match (answer.state.as_str(), answer.token.map(Zeroizing::new)) {
            ("approved", Some(token)) => {
                return token.parse().map_err(|e| {
                    CliError::new(
                        format!("the coordinator's answer is no join token: {e}"),
                        "update meshd on this machine",
                    )
                });
            }
            ("waiting", _) => {}
            _ => {
                return Err(CliError::new(
                    "this machine was not let in: somebody refused it, or the request is too old",
                    "ask again with the same command, or use a join token",
                ));
            }
        }
    }
    Err(CliError::new(
        "nobody approved this machine in time",
        "ask again with the same command, or use a join token",
    ))
}

fn call<T: DeserializeOwned>(place: &Place, path: &str, body: &serde_json::Value) -> Result<T, CliError> {
    let body = Zeroizing::new(body.to_string());
    let (status, answer) = https::post(place, path, body.as_bytes()).map_err(|e| e.into_cli(place))?;
    if !(200..300).contains(&status) {
        let problem: Option<Problem> = serde_json::from_slice(&answer).ok();
        return Err(match problem {
            Some(problem) => CliError::new(one_line(&problem.detail), one_line(&problem.hint)),
            None => CliError::new(
                format!("{} answered with HTTP status {status}", place.authority()),
                "is this the address of a meshd coordinator?",
            ),
        });
    }
    serde_json::from_slice(&answer).map_err(|_| {
        CliError::new(
            format!("{} gave an answer that no coordinator gives", place.authority()),
            "is this the address of a meshd coordinator, and of the same version?",
        )
    })
}

/// A stranger's text for a terminal: no control characters, not endless.
fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: &str =
        "0A:0b:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F:20:21:22:23:24:25:26:27:28:29";

    #[test]
    fn a_place_is_a_url_with_https_and_a_host() {
        let place = |url: &str| Place::parse(url, None).map(|p| (p.approvals(), p.host, p.port));
        let says = |url: &str| place(url).unwrap_err().message;
        let (page, host, port) = place("https://mesh.example.com").unwrap();
        assert_eq!(
            (page.as_str(), host.as_str(), port),
            ("https://mesh.example.com/approvals", "mesh.example.com", 443)
        );
        assert_eq!(place("192.0.2.1:8443").unwrap().0, "https://192.0.2.1:8443/approvals");
        let six = place("https://[2001:db8::1]:8443/approvals").unwrap();
        assert_eq!((six.0.as_str(), six.1.as_str()), ("https://[2001:db8::1]:8443/approvals", "2001:db8::1"));
        assert_eq!(place("https://[2001:db8::1]/").unwrap().2, 443);
        assert!(says("http://mesh.example.com").contains("plain HTTP"));
        assert!(says("ftp://mesh.example.com").contains("no https"));
        assert!(says("https://me@mesh.example.com").contains("user name"));
        assert!(says("https://mesh.example.com:x").contains("port"));
        assert!(says("https://a b").contains("host"));
        assert!(says("https://a\r\nHost: evil").contains("port"));
        assert!(says("https://").contains("host"));
    }

    #[test]
    fn a_fingerprint_is_read_as_the_coordinator_prints_it() {
        let read = |text: &str| Place::parse("https://mesh.example.com", Some(text)).map(|p| p.fingerprint);
        let expected: [u8; 32] = std::array::from_fn(|i| i as u8 + 10);
        assert_eq!(read(PRINT).unwrap(), Some(expected));
        assert_eq!(read(&PRINT.replace(':', "")).unwrap(), Some(expected));
        for bad in ["", "0A", &PRINT[3..], "zz", &format!("{PRINT}:00"), "ÄÖ"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
