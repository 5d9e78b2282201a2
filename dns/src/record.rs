//! Records as an admin writes them, as the DNS carries them.

use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{Name, RData, RecordType as WireType};
use meshd_proto::DnsName;
use meshd_proto::netmap::{RecordType, RecordValue};
use std::net::IpAddr;

/// Longest text of one string (RFC 1035 §3.3).
const MAX_TEXT: usize = 255;

/// A value that is not of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is no value of type {kind}: write it as {example}")]
pub struct BadValue {
    value: String,
    kind: &'static str,
    example: &'static str,
}

/// The value of a record of type `kind`.
///
/// # Errors
/// When the value is not of that type. What came in a map is left out then; what an admin types is
/// refused.
pub fn data(kind: RecordType, value: &RecordValue) -> Result<RData, BadValue> {
    let bad = |text: &str| BadValue {
        value: text.chars().take(80).collect(),
        kind: kind.as_str(),
        example: example(kind),
    };
    match (kind, value) {
        (RecordType::A, RecordValue::Address(IpAddr::V4(ip))) => Ok(RData::A(A(*ip))),
        (RecordType::Aaaa, RecordValue::Address(IpAddr::V6(ip))) => Ok(RData::AAAA(AAAA(*ip))),
        (RecordType::Cname, RecordValue::Name(to)) => {
            wire_name(to).map(|to| RData::CNAME(CNAME(to))).ok_or_else(|| bad(to.as_str()))
        }
        (RecordType::Txt, RecordValue::Text(text)) if text.len() <= MAX_TEXT => {
            Ok(RData::TXT(TXT::new(vec![text.clone()])))
        }
        (_, RecordValue::Text(text)) if text.len() <= MAX_TEXT => parse(kind, text).ok_or_else(|| bad(text)),
        (_, RecordValue::Text(text)) => Err(bad(text)),
        (_, RecordValue::Address(ip)) => Err(bad(&ip.to_string())),
        (_, RecordValue::Name(name)) => Err(bad(name.as_str())),
    }
}

/// A value as in a zone file, on one line.
fn parse(kind: RecordType, text: &str) -> Option<RData> {
    if text.contains(['\n', '\r', ';', '(', ')']) {
        return None;
    }
    let mut parsed = RData::try_from_str(WireType::from(kind.number()), text).ok()?;
    // Names without their last dot are meant as absolute: there is no origin to add here.
    let absolute = |name: &mut Name| name.set_fqdn(true);
    match &mut parsed {
        RData::MX(mx) => absolute(&mut mx.exchange),
        RData::SRV(srv) => absolute(&mut srv.target),
        RData::PTR(ptr) => absolute(&mut ptr.0),
        RData::NS(ns) => absolute(&mut ns.0),
        RData::SVCB(svcb) => absolute(&mut svcb.target_name),
        RData::HTTPS(https) => absolute(&mut https.0.target_name),
        RData::CAA(_) => {}
        _ => return None,
    }
    Some(parsed)
}

/// The name that a value leads to: an alias's, a host's, a server's. `None` for values that name nothing,
/// are not of their type, or mean the owner itself (`.`).
pub fn target(kind: RecordType, value: &RecordValue) -> Option<DnsName> {
    let name = match data(kind, value).ok()? {
        RData::CNAME(to) => to.0,
        RData::MX(mx) => mx.exchange,
        RData::SRV(srv) => srv.target,
        RData::PTR(ptr) => ptr.0,
        RData::NS(ns) => ns.0,
        RData::SVCB(svcb) => svcb.target_name,
        RData::HTTPS(https) => https.0.target_name,
        _ => return None,
    };
    name.to_ascii().to_ascii_lowercase().trim_end_matches('.').parse().ok()
}

/// How a value of that type is written.
pub const fn example(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "192.168.1.10",
        RecordType::Aaaa => "fd00::10",
        RecordType::Cname | RecordType::Ptr | RecordType::Ns => "host.example.com",
        RecordType::Txt => "any text of at most 255 bytes",
        RecordType::Mx => "10 mail.example.com",
        RecordType::Srv => "0 5 5060 sip.example.com (priority, weight, port, host; without the parentheses)",
        RecordType::Caa => "0 issue \"letsencrypt.org\"",
        RecordType::Svcb | RecordType::Https => "1 . alpn=h2",
    }
}

/// The name in wire form, absolute. A valid [`DnsName`] always has one.
pub(crate) fn wire_name(name: &DnsName) -> Option<Name> {
    let mut wire = Name::from_ascii(name.as_str()).ok()?;
    wire.set_fqdn(true);
    Some(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: RecordType, value: &str) -> Result<String, BadValue> {
        data(kind, &RecordValue::Text(value.to_owned())).map(|data| data.to_string())
    }

    #[test]
    fn what_leads_to_another_name_says_which() {
        let leads = |kind, value: &str| {
            target(kind, &RecordValue::Text(value.to_owned())).map(|name| name.to_string())
        };
        let nas = Some("nas.home.internal".to_owned());
        for (kind, value) in [
            (RecordType::Mx, "10 NAS.home.internal."),
            (RecordType::Srv, "0 5 445 nas.home.internal"),
            (RecordType::Ptr, "nas.home.internal"),
            (RecordType::Ns, "nas.home.internal."),
            (RecordType::Svcb, "1 nas.home.internal. port=8443"),
            (RecordType::Https, "1 nas.home.internal. alpn=h2"),
        ] {
            assert_eq!(leads(kind, value), nas, "{value}");
        }
        let alias = RecordValue::Name("nas.home.internal".parse().unwrap());
        assert_eq!(target(RecordType::Cname, &alias).map(|n| n.to_string()), nas);
        for (kind, value) in [
            (RecordType::Txt, "nas.home.internal"),
            (RecordType::Caa, "0 issue \"letsencrypt.org\""),
            (RecordType::Https, "1 . alpn=h2"),
            (RecordType::Mx, "ten nas.home.internal"),
        ] {
            assert_eq!(leads(kind, value), None, "{value}");
        }
    }

    #[test]
    fn every_common_type_is_read_as_in_a_zone_file() {
        assert_eq!(text(RecordType::Mx, "10 mail.example.com").unwrap(), "10 mail.example.com.");
        assert_eq!(text(RecordType::Srv, "0 5 5060 sip.example.").unwrap(), "0 5 5060 sip.example.");
        assert_eq!(text(RecordType::Ptr, "pi.home.internal").unwrap(), "pi.home.internal.");
        assert_eq!(text(RecordType::Ns, "ns.example.com").unwrap(), "ns.example.com.");
        assert!(text(RecordType::Caa, "0 issue \"letsencrypt.org\"").is_ok());
        assert!(text(RecordType::Https, "1 . alpn=h2").is_ok());
        assert!(text(RecordType::Svcb, "1 host.example.com. port=8443").is_ok());
        assert!(text(RecordType::Txt, "v=spf1 -all; any ( text").is_ok());
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_an_example() {
        let error = text(RecordType::Mx, "mail.example.com").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`mail.example.com` is no value of type MX: write it as 10 mail.example.com"
        );
        for bad in ["", "10", "x y", "10 a..b", "10 mail.example.com\n20 other", "10 mail ; no"] {
            assert!(text(RecordType::Mx, bad).is_err(), "{bad:?}");
        }
        assert!(text(RecordType::Srv, "0 5 70000 sip.example.").is_err());
        assert!(data(RecordType::A, &RecordValue::Address("fd00::1".parse().unwrap())).is_err());
        assert!(text(RecordType::A, "192.0.2.1").is_err(), "addresses are addresses");
        assert!(text(RecordType::Txt, &"x".repeat(256)).is_err());
    }
}
