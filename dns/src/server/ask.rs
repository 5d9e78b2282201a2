//! A question of this host's own programs, answered as if it had come by UDP: for `meshd dns`.

use super::resolve::{AtOnce, Names};
use crate::clock;
use crate::forward::random_id;
use crate::query::MAX_UDP_REPLY;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{LowerName, Name, RecordType};
use std::time::Duration;

/// The option of extended errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queried {
    /// Why it is so, step by step.
    pub steps: Vec<String>,
    /// NOERROR, NXDOMAIN, …
    pub code: String,
    /// Whether it comes from a zone of ours.
    pub authoritative: bool,
    /// The answer section, as in a zone file.
    pub records: Vec<String>,
    /// What the code does not say.
    pub why: String,
    /// Time to the reply.
    pub took: Duration,
}

/// A name or type that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// No domain name.
    #[error("`{0}` is no domain name")]
    Name(String),
    /// No record type.
    #[error(
        "`{0}` is no record type: use A, AAAA, CNAME, TXT, MX, SRV, PTR, NS, SOA, CAA, HTTPS or TYPE65400"
    )]
    Kind(String),
    /// No random number for the id.
    #[error("the system gave no random bytes")]
    Entropy,
}

impl Names {
    /// Asks as this host would.
    ///
    /// # Errors
    /// When the question cannot be asked; that nobody knew an answer is an answer.
    pub async fn query(&self, name: &str, kind: &str) -> Result<Queried, BadQuestion> {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let mut asked = Name::from_ascii(name).map_err(|_| BadQuestion::Name(short(name)))?;
        asked.set_fqdn(true);
        let kind: RecordType =
            kind.to_ascii_uppercase().parse().map_err(|_| BadQuestion::Kind(short(kind)))?;
        let side = self.own_side();
        let steps = side.view().explain(&LowerName::from(&asked), kind);
        let id = random_id().map_err(|_| BadQuestion::Entropy)?;
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(asked, kind));
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_REPLY);
        message.set_edns(edns);
        let packet = message.to_vec().map_err(|_| BadQuestion::Name(short(name)))?;

        let started = clock::now();
        let mut reply = Vec::new();
        if let AtOnce::Wait(open) = self.at_once(side, &packet, &mut reply, started) {
            reply = self.in_time(side, *open, None).await;
        }
        let took = clock::now().saturating_duration_since(started);
        Ok(match Message::from_vec(&reply) {
            Ok(message) => Queried {
                steps,
                code: message.metadata.response_code.to_str().to_owned(),
                authoritative: message.metadata.authoritative,
                records: message.answers.iter().map(ToString::to_string).collect(),
                why: why(&message),
                took,
            },
            Err(error) => Queried {
                steps,
                code: "SERVFAIL".to_owned(),
                authoritative: false,
                records: Vec::new(),
                why: format!("the reply cannot be read: {error}"),
                took,
            },
        })
    }
}

/// The text of the extended error, if there is one.
fn why(message: &Message) -> String {
    let options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    let text = options.filter_map(|(_, option)| match option {
        EdnsOption::Unknown(EXTENDED_ERROR, data) => data.get(2..),
        _ => None,
    });
    text.map(|text| String::from_utf8_lossy(text).into_owned()).next().unwrap_or_default()
}
