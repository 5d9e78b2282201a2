//! The network configuration from standard input, parsed once.
//!
//! `DEL` and `GC` read only what they need: a mistake in a range must not keep an address reserved.

use crate::failure::{Code, Failure};
use crate::range::{Family, Ranges};
use crate::request::{Attachment, Command, MAX_PATH, check_id};
use crate::result::PrevResult;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::{Component, PathBuf};

/// Most bytes of a configuration; with the results and attachments that a runtime adds to it.
pub(crate) const MAX_INPUT: usize = 4 << 20;
/// Where reservations are kept unless the configuration says otherwise.
const DATA_DIR: &str = "/var/lib/meshd/cni";
/// MTU of pods unless the configuration says otherwise: that of the mesh interface, so that what a pod
/// sends to another node fits into the tunnel as it is.
const DEFAULT_MTU: u32 = 1380;
/// Least MTU of IPv4 (RFC 791, what a host must accept) and of IPv6 (RFC 8200 §5).
const LEAST_MTU: [u32; 2] = [576, 1280];
const MOST_MTU: u32 = 65535;
/// Most entries in a list of `dns`, and their longest text.
const MAX_DNS: (usize, usize) = (32, 255);
/// Most attachments of one network on one node.
const MAX_ATTACHMENTS: usize = 16 << 10;

/// The keys of a configuration that are known: the specification's, and ours.
const KNOWN: [&str; 14] = [
    "cniVersion",
    "name",
    "type",
    "prevResult",
    "runtimeConfig",
    "capabilities",
    "args",
    "dns",
    "disableCheck",
    "disableGC",
    "cniVersions",
    "ranges",
    "mtu",
    "dataDir",
];

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 3] = [Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// Standard input as a JSON object, before its version is known to be spoken here.
#[derive(Debug)]
pub(crate) struct Input {
    object: Map<String, Value>,
    /// `cniVersion` as it was written, bounded.
    pub(crate) version: String,
}

/// What every command but `VERSION` needs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    /// Name of the network; safe as the name of a folder.
    pub(crate) name: String,
    pub(crate) data_dir: PathBuf,
    object: Map<String, Value>,
}

/// What `ADD` and `STATUS` need beside it.
#[derive(Debug)]
pub(crate) struct PodNetwork {
    pub(crate) ranges: Ranges,
    pub(crate) mtu: u32,
    /// `dns` of the result, as configured.
    pub(crate) dns: Option<Value>,
}

impl Input {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let decode = |why: String| Failure::new(Code::Decode, "the configuration cannot be read", why);
        if bytes.len() > MAX_INPUT {
            return Err(decode(format!("standard input is longer than {MAX_INPUT} bytes")));
        }
        let object: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| decode(format!("standard input must be one JSON object: {e}")))?;
        let version = match object.get("cniVersion") {
            // "If not set, 0.1.0 is assumed" (specification 0.2.0).
            None => "0.1.0".to_owned(),
            Some(Value::String(text)) if text.len() <= 32 && text.bytes().all(|b| b.is_ascii_graphic()) => {
                text.clone()
            }
            Some(_) => return Err(decode("cniVersion must be a string as \"1.1.0\"".to_owned())),
        };
        Ok(Self { object, version })
    }
}

impl Config {
    pub(crate) fn parse(input: Input, command: Command) -> Result<Self, Failure> {
        let spoken = Version::ALL.map(Version::text).join(", ");
        let version = Version::ALL.into_iter().find(|v| v.text() == input.version).ok_or_else(|| {
            let details = format!("cniVersion {} is not spoken here; use one of {spoken}", input.version);
            Failure::new(Code::IncompatibleVersion, "CNI version is not supported", details)
        })?;
        if matches!(command, Command::Gc | Command::Status) && version < Version::V1_1_0 {
            let details = format!("cniVersion {} does not know this command; use 1.1.0", version.text());
            return Err(Failure::new(Code::IncompatibleVersion, "command of a later CNI version", details));
        }
        let object = input.object;
        if !matches!(command, Command::Del | Command::Gc) {
            refuse_unknown(&object)?;
        }
        let name: String = field(&object, "name")?.ok_or_else(|| wrong("name", "it is missing"))?;
        check_id(&name).map_err(|e| wrong("name", &e))?;
        let data_dir = match field::<String>(&object, "dataDir")? {
            None => PathBuf::from(DATA_DIR),
            Some(text) => parse_folder(&text)?,
        };
        Ok(Self { version, name, data_dir, object })
    }

    pub(crate) fn pod_network(&self) -> Result<PodNetwork, Failure> {
        let texts: Vec<String> = field(&self.object, "ranges")?.unwrap_or_default();
        let ranges = Ranges::parse(&texts).map_err(|e| wrong("ranges", &e))?;
        let mtu = field(&self.object, "mtu")?.unwrap_or(DEFAULT_MTU);
        let least = LEAST_MTU[usize::from(ranges.families().any(|f| f == Family::V6))];
        if !(least..=MOST_MTU).contains(&mtu) {
            return Err(wrong("mtu", &format!("{mtu} is not between {least} and {MOST_MTU}")));
        }
        let dns = self.object.get("dns").filter(|v| !v.is_null());
        dns.map_or(Ok(()), |value| check_dns(value).map_err(|e| wrong("dns", &e)))?;
        Ok(PodNetwork { ranges, mtu, dns: dns.cloned() })
    }

    /// The result of the plugin before this one, or, for `CHECK`, of this one.
    pub(crate) fn prev_result(&self) -> Result<Option<PrevResult>, Failure> {
        match self.object.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => PrevResult::parse(value).map(Some).map_err(|e| wrong("prevResult", &e)),
        }
    }

    /// `GC`: the attachments that are still in use. A missing list is an error, not an empty one: nothing
    /// is removed by mistake.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<Attachment>, Failure> {
        const KEY: &str = "cni.dev/valid-attachments";
        #[derive(Deserialize)]
        struct Raw {
            #[serde(rename = "containerID")]
            container: String,
            ifname: String,
        }
        // Runtimes written in Go say null for an empty list.
        let raw: Option<Vec<Raw>> = field(&self.object, KEY)?;
        if !self.object.contains_key(KEY) {
            return Err(wrong(KEY, "it is missing; the runtime lists here what is still in use"));
        }
        let raw = raw.unwrap_or_default();
        if raw.len() > MAX_ATTACHMENTS {
            return Err(wrong(KEY, &format!("it lists more than {MAX_ATTACHMENTS} attachments")));
        }
        let parse = |raw: Raw| {
            Ok(Attachment { container: raw.container.try_into()?, interface: raw.ifname.try_into()? })
        };
        raw.into_iter().map(parse).collect::<Result<_, String>>().map_err(|e| wrong(KEY, &e))
    }
}

/// `Value::Null` counts as missing.
fn field<T: serde::de::DeserializeOwned>(
    object: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>, Failure> {
    let value = object.get(key).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value).map_err(|e| wrong(key, &e.to_string()))
}

fn refuse_unknown(object: &Map<String, Value>) -> Result<(), Failure> {
    let known = |key: &String| KNOWN.contains(&key.as_str()) || key.starts_with("cni.dev/");
    let Some((key, value)) = object.iter().find(|(key, _)| !known(key)) else { return Ok(()) };
    let key: String = key.chars().take(60).collect();
    let value: String = value.to_string().chars().take(200).collect();
    let what_to_do = match key.as_str() {
        "ipam" => "meshd-cni gives addresses itself: list the node's pod CIDRs in \"ranges\"",
        "ipMasq" => "meshd-cni does not masquerade",
        _ => "remove it, or correct its name; ours are \"ranges\", \"mtu\", \"dataDir\" and \"dns\"",
    };
    let details = format!("{key}: {value} is not known; {what_to_do}");
    Err(Failure::new(Code::UnsupportedField, "unsupported field in the configuration", details))
}

fn parse_folder(text: &str) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(text);
    let plain = path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
    if !path.is_absolute() || !plain || text.len() > MAX_PATH / 2 || text.contains(char::is_control) {
        return Err(wrong("dataDir", "it must be an absolute path without .."));
    }
    Ok(path)
}

/// The shape of `dns` in the specification.
fn check_dns(value: &Value) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Dns {
        #[serde(default)]
        nameservers: Vec<IpAddr>,
        #[serde(default)]
        domain: String,
        #[serde(default)]
        search: Vec<String>,
        #[serde(default)]
        options: Vec<String>,
    }
    let dns = Dns::deserialize(value).map_err(|e| e.to_string())?;
    let (most, longest) = MAX_DNS;
    let texts = dns.search.iter().chain(&dns.options).chain([&dns.domain]);
    if [dns.nameservers.len(), dns.search.len(), dns.options.len()].into_iter().any(|n| n > most) {
        return Err(format!("a list has more than {most} entries"));
    }
    if texts.into_iter().any(|t| t.len() > longest || t.contains(char::is_control)) {
        return Err(format!("a text is longer than {longest} bytes or holds a control character"));
    }
    Ok(())
}

fn wrong(key: &str, why: &str) -> Failure {
    let why: String = why.chars().take(400).collect();
    Failure::new(Code::InvalidConfiguration, format!("{key} is not usable"), format!("{key}: {why}"))
}

#[cfg(test)]
mod tests;
