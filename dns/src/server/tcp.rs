//! Our lookup as hickory-server's request handler, for TCP.
//!
//! hickory writes replies from records. A forwarded reply is therefore read into records and written
//! again: types unknown to it stay bytes, names may be compressed differently. One that it cannot read
//! becomes SERVFAIL.

use super::gate::Gate;
use super::resolve::{Names, Outcome};
use super::source::kind_of;
use crate::answer::Answer;
use crate::clock;
use crate::query::{ClientQuery, QueryError};
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::sync::Arc;

pub(super) struct Handler {
    pub(super) names: Arc<Names>,
    pub(super) gate: Arc<Gate>,
}

struct Reply {
    metadata: Metadata,
    edns: Option<Edns>,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn own(answer: Answer, query: &ClientQuery) -> Self {
        Self {
            metadata: answer.metadata(query),
            edns: answer.edns(query),
            answers: answer.records,
            authorities: answer.authority,
            additionals: Vec::new(),
        }
    }

    fn bare(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        let edns = request.edns.as_ref().map(|_| Edns::new());
        Self { metadata, edns, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let source = request.src().ip();
        let Some(side) = self.gate.side(&self.names, source, kind_of, clock::now()) else {
            return Reply::bare(request, ResponseCode::Refused);
        };
        let packet = request.as_slice();
        let query = match ClientQuery::parse(packet) {
            Ok(query) => query,
            Err(QueryError::Reject { code, .. }) => return Reply::bare(request, code),
            Err(QueryError::Silent) => return Reply::bare(request, ResponseCode::FormErr),
        };
        match self.names.by_tcp(side, packet, query.clone()).await {
            Outcome::Own(answer) => Reply::own(answer, &query),
            Outcome::Raw(reply) => match Message::from_vec(&reply) {
                Ok(message) => Reply {
                    metadata: message.metadata,
                    edns: message.edns,
                    answers: message.answers,
                    authorities: message.authorities,
                    additionals: message.additionals,
                },
                Err(error) => {
                    tracing::debug!(%error, "an upstream's reply cannot be read");
                    Reply::own(Answer::code(ResponseCode::ServFail), &query)
                }
            },
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &reply.edns {
            builder.edns(edns);
        }
        let response =
            builder.build(reply.metadata, &reply.answers, &reply.authorities, [], &reply.additionals);
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "reply not sent over TCP");
                ResponseInfo::from(Header { metadata: reply.metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
