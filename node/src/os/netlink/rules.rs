//! The kernel's routing rules. Ours have one of our [`PRIORITIES`] and [`PROTOCOL`].

use super::{MAIN_TABLE, NO_FAMILY, Netlink, errno, failed, family_number, fine_if_gone};
use crate::os::OsError;
use crate::os::desired::{FWMARK, Family, PRIORITIES, PROTOCOL, Rule, RuleAction, TABLE};
use futures_util::TryStreamExt;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{
    RuleAction as KernelAction, RuleAttribute, RuleFlags, RuleHeader, RuleMessage, RulePortRange,
};
use netlink_packet_route::{AddressFamily, IpProtocol};
use rtnetlink::IpVersion;

const DNS: RulePortRange = RulePortRange { start: 53, end: 53 };

impl Netlink {
    /// Our rules: `(message, value)`; the value is `None` for one that this version would not make.
    pub(crate) async fn rules(&self) -> Result<Vec<(RuleMessage, Option<Rule>)>, OsError> {
        let mut ours = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let listed: Result<Vec<RuleMessage>, _> =
                self.handle.rule().get(version).execute().try_collect().await;
            match listed {
                Ok(listed) => ours.extend(listed.into_iter().filter(is_our_rule)),
                Err(e) if errno(&e).is_some_and(|n| NO_FAMILY.contains(&n)) => {}
                Err(e) => return Err(failed("list routing rules", e)),
            }
        }
        Ok(ours.into_iter().map(|m| (parse_rule(&m), m)).map(|(value, m)| (m, value)).collect())
    }

    pub(crate) async fn add_rule(&self, rule: Rule) -> Result<(), OsError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = build_rule(rule);
        match request.execute().await {
            Err(e) if errno(&e) == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(|e| failed(format!("add rule {rule}"), e)),
        }
    }

    pub(crate) async fn delete_rule(&self, message: RuleMessage) -> Result<(), OsError> {
        fine_if_gone("delete a routing rule", self.handle.rule().del(message).execute().await)
    }
}

struct RuleFields {
    priority: u32,
    mark: u32,
    mask: u32,
    table: u32,
    suppress: u32,
    protocol: u8,
    transport: Option<IpProtocol>,
    to_port: Option<RulePortRange>,
}

fn rule_fields(message: &RuleMessage) -> RuleFields {
    let mut fields = RuleFields {
        priority: 0,
        mark: 0,
        mask: 0,
        table: message.header.table.into(),
        suppress: u32::MAX,
        protocol: 0,
        transport: None,
        to_port: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(v) => fields.priority = *v,
            RuleAttribute::FwMark(v) => fields.mark = *v,
            RuleAttribute::FwMask(v) => fields.mask = *v,
            RuleAttribute::Table(v) => fields.table = *v,
            RuleAttribute::SuppressPrefixLen(v) => fields.suppress = *v,
            RuleAttribute::Protocol(v) => fields.protocol = u8::from(*v),
            RuleAttribute::IpProtocol(v) => fields.transport = Some(*v),
            RuleAttribute::DestinationPortRange(v) => fields.to_port = Some(*v),
            _ => {}
        }
    }
    fields
}

fn is_our_rule(message: &RuleMessage) -> bool {
    let fields = rule_fields(message);
    fields.protocol == PROTOCOL && PRIORITIES.contains(&fields.priority)
}

fn parse_rule(message: &RuleMessage) -> Option<Rule> {
    let fields = rule_fields(message);
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if let (Some(transport), Some(DNS)) = (fields.transport, fields.to_port) {
        let unmarked = fields.mark == 0 && fields.mask == u32::MAX;
        let refused = message.header.action == KernelAction::Unreachable && unmarked;
        let tcp = transport == IpProtocol::Tcp;
        return (refused && !message.header.flags.contains(RuleFlags::Invert)).then_some(Rule {
            priority: fields.priority,
            family,
            action: RuleAction::RefuseDns { tcp },
        });
    }
    let marked = fields.mark == FWMARK && fields.mask == u32::MAX;
    if !marked || !message.header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let action = match (message.header.action, fields.table, fields.suppress) {
        (KernelAction::ToTable, TABLE, 0) => RuleAction::MeshPrefixes,
        (KernelAction::ToTable, TABLE, u32::MAX) => RuleAction::MeshDefault,
        (KernelAction::ToTable, MAIN_TABLE, 0) => RuleAction::MainPrefixes,
        (KernelAction::Unreachable, ..) => RuleAction::Unreachable,
        _ => return None,
    };
    Some(Rule { priority: fields.priority, family, action })
}

fn build_rule(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: family_number(rule.family),
        flags: RuleFlags::Invert,
        action: KernelAction::ToTable,
        ..RuleHeader::default()
    };
    // "Not" would hold for the whole of the rule, the port included, so this one says "no mark" instead.
    let mark = if matches!(rule.action, RuleAction::RefuseDns { .. }) { 0 } else { FWMARK };
    message.attributes.extend([
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ]);
    let lookup = match rule.action {
        RuleAction::MeshPrefixes => [Some(TABLE), Some(0)],
        RuleAction::MainPrefixes => [Some(MAIN_TABLE), Some(0)],
        RuleAction::MeshDefault => [Some(TABLE), None],
        RuleAction::Unreachable => {
            message.header.action = KernelAction::Unreachable;
            [None, None]
        }
        RuleAction::RefuseDns { tcp } => {
            message.header.action = KernelAction::Unreachable;
            message.header.flags = RuleFlags::empty();
            let transport = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
            message.attributes.push(RuleAttribute::IpProtocol(transport));
            message.attributes.push(RuleAttribute::DestinationPortRange(DNS));
            [None, None]
        }
    };
    message.attributes.extend(lookup[0].map(RuleAttribute::Table));
    message.attributes.extend(lookup[1].map(RuleAttribute::SuppressPrefixLen));
    message
}
