//! The API's description (OpenAPI 3.1), made from the table of routes: who may, which parameters, which
//! body. A test asks every input type for its fields, so the description cannot fall behind.

use super::{Asker, Face, Need, Problem, Row, table};
use crate::service::{Permission, Service};
use axum::Json;
use axum::http::Method;
use serde_json::{Map, Value, json};

/// A field of a request body: name, JSON type, required, what it is.
type Field = (&'static str, &'static str, bool, &'static str);

/// For whom something is set.
const FOR: Field = ("for", "string", false, "Users, groups and tags, with commas; absent: everybody");

const POLICY: &[Field] = &[
    ("text", "string", true, "The policy text"),
    ("expected_version", "integer", false, "Only when the policy in force is still that of this version"),
    ("force", "boolean", false, "Also when it cuts most of the mesh, or your own machines, off"),
];

/// The body of a request. `None`: it has none.
pub(super) fn fields(method: &Method, path: &str) -> Option<&'static [Field]> {
    Some(match (method.as_str(), path) {
        ("PATCH", "/api/v1/nodes/{name}") => {
            &[("name", "string", false, "Another name"), ("tags", "string[]", false, "Other tags")]
        }
        ("POST", "/api/v1/nodes/{name}/routes/approve" | "/api/v1/nodes/{name}/routes/unapprove") => {
            &[("prefixes", "string[]", false, "The prefixes; none: all")]
        }
        ("POST", "/api/v1/nodes/{name}/devices") => {
            &[("name", "string", true, "Its name"), ("key", "string", true, "Its WireGuard public key")]
        }
        ("POST", "/api/v1/tokens") => &[
            ("uses", "integer", false, "How many machines it may admit"),
            ("lifetime", "integer", false, "Seconds until it ends"),
            ("tags", "string[]", false, "What the nodes are"),
            ("ephemeral", "boolean", false, "The nodes are forgotten when they stay away"),
            ("pre_approved", "boolean", false, "The nodes may talk at once"),
            ("user", "string", false, "Who the nodes belong to"),
            ("note", "string", false, "What for"),
        ],
        ("POST", "/api/v1/api-tokens") => &[
            ("name", "string", true, "Its name, for the audit log"),
            ("role", "role", true, "What it may do"),
            ("scopes", "string[]", false, "What of that; none: all that the role may"),
            ("lifetime", "integer", true, "Seconds until it ends"),
        ],
        ("PATCH", "/api/v1/users/{name}") => &[
            ("role", "role", false, "Another role"),
            ("enabled", "boolean", false, "Whether the person may sign in"),
        ],
        ("POST", "/api/v1/invitations") => &[
            ("name", "string", false, "The account's name; empty: the person chooses one"),
            ("role", "role", true, "What the person may do"),
            ("lifetime", "integer", false, "Seconds until the link ends"),
        ],
        ("PUT", "/api/v1/clusters/{name}") => {
            &[("ranges", "string[]", true, "10.98.0.0/24, 10.98.0.50-10.98.0.99 or one address each")]
        }
        ("POST", "/api/v1/clusters/{name}/token") => {
            &[("lifetime", "integer", false, "Seconds until it ends")]
        }
        ("PUT", "/api/v1/clusters/{name}/services") => {
            &[("services", "array", true, "All services; `If-Match` takes the revision they are based on")]
        }
        ("POST", "/api/v1/dns/records") => &[
            ("name", "string", true, "A name of the mesh's domain, or a label under it"),
            ("type", "string", false, "A, AAAA, CNAME or TXT; absent: as the value tells"),
            ("value", "string", true, "The value"),
            ("ttl", "integer", false, "Seconds to cache"),
            ("for", "string[]", false, "Users, groups and tags that it is for; none: everybody"),
        ],
        ("PUT", "/api/v1/dns/declared") => &[
            ("search", "string[]", false, "Search domains beside the mesh's own"),
            ("split", "array", false, "Domains with resolvers of their own"),
            ("nameservers", "string[]", false, "Resolvers for everything else"),
            ("records", "array", false, "Records for everybody; absent: as they are"),
            ("for", "array", false, "What is there for some users, groups and tags; absent: as it is"),
        ],
        ("PUT", "/api/v1/policy") | ("POST", "/api/v1/policy/check" | "/api/v1/policy/plan") => POLICY,
        ("POST", "/api/v1/policy/rollback") => &[
            ("version", "integer", true, "The version that brought the policy"),
            ("force", "boolean", false, "Also when it cuts most of the mesh, or your own machines, off"),
        ],
        _ => return None,
    })
}

/// The queries of a route.
fn queries(method: &Method, path: &str) -> &'static [Field] {
    match (method.as_str(), path) {
        ("GET", "/api/v1/nodes") => &[
            ("q", "string", false, "Part of a name, address, owner, tag or key"),
            ("state", "string", false, "online, offline, waiting, expired, revoked or device"),
            ("limit", "integer", false, "Most entries of the answer; `Link` leads to the next"),
            ("after", "string", false, "Begin behind the node of this name"),
        ],
        ("GET", "/api/v1/routes" | "/api/v1/tokens" | "/api/v1/dns/records" | "/api/v1/access") => &[
            ("limit", "integer", false, "Most entries of the answer; `Link` leads to the next"),
            ("offset", "integer", false, "Begin behind so many"),
        ],
        ("GET", "/api/v1/audit") => &[
            ("before", "integer", false, "Only entries with a lower number"),
            ("limit", "integer", false, "Most entries of the answer"),
        ],
        ("GET", "/api/v1/policy/explain") => &[
            ("from", "string", true, "Name or address of the sender"),
            ("to", "string", true, "Name or address of the receiver, with a port"),
            ("protocol", "string", false, "tcp, udp, icmp, icmpv6 or a number"),
        ],
        ("DELETE", "/api/v1/dns/records/{name}") => &[
            ("type", "string", false, "Only records of this type"),
            ("value", "string", false, "Only this value"),
            FOR,
        ],
        ("PUT" | "DELETE", "/api/v1/dns/split/{domain}")
        | ("PUT", "/api/v1/dns/nameservers" | "/api/v1/dns/search") => &[FOR],
        ("GET", "/api/v1/dns/explain") => &[
            ("name", "string", true, "The name; one word means one in the mesh's domain"),
            ("as", "string", true, "Name, id or address of a node, or a user"),
            ("type", "string", false, "A, AAAA …; absent: A"),
        ],
        _ => &[],
    }
}

fn schema(kind: &str) -> Value {
    match kind {
        "string[]" => json!({"type": "array", "items": {"type": "string"}}),
        "role" => json!({"type": "string", "enum": crate::service::Role::ALL.map(|r| r.as_str())}),
        "integer" => json!({"type": "integer", "minimum": 0}),
        kind => json!({ "type": kind }),
    }
}

fn operation(row: &Row) -> Value {
    let parameter = |place: &str, (name, kind, required, about): Field| json!({"name": name, "in": place, "required": required, "description": about, "schema": schema(kind)});
    let in_path = row.path.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| {
        json!({"name": name, "in": "path", "required": true, "schema": schema(if name == "id" { "integer" } else { "string" })})
    });
    let in_query = queries(&row.method, row.path).iter().map(|f| parameter("query", *f));
    let parameters: Vec<Value> = in_path.chain(in_query).collect();
    let problem = json!({"description": "Not done: what happened, why, and what to do",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}});
    let mut operation = json!({
        "summary": row.about,
        "operationId": operation_id(row),
        "responses": {"2XX": {"description": "Done"}, "4XX": problem, "5XX": problem},
    });
    if let Some(map) = operation.as_object_mut() {
        if !parameters.is_empty() {
            map.insert("parameters".to_owned(), parameters.into());
        }
        if let Need::May(permission) = row.need {
            map.insert("x-permission".to_owned(), permission.as_str().into());
        }
        if let Some(fields) = fields(&row.method, row.path) {
            map.insert("requestBody".to_owned(), body(fields));
        }
    }
    operation
}

fn body(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for (name, kind, _, about) in fields {
        let mut property = schema(kind);
        property["description"] = Value::from(*about);
        properties.insert((*name).to_owned(), property);
    }
    let required: Vec<&str> = fields.iter().filter(|f| f.2).map(|f| f.0).collect();
    let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    json!({"required": true, "content": {"application/json": {"schema": schema}}})
}

fn operation_id(row: &Row) -> String {
    let path = row.path.trim_start_matches("/api/v1/").replace(['{', '}'], "");
    format!("{}-{}", row.method.as_str().to_lowercase(), path.replace(['/', '.'], "-"))
}

/// The whole description.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for row in table().iter().filter(|row| row.face == Face::Api) {
        let entry = paths.entry(row.path.to_owned()).or_insert_with(|| json!({}));
        entry[row.method.as_str().to_lowercase()] = operation(row);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "meshd coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Everything that the pages and the command line do. `x-permission` names what an actor needs.",
            "license": {"name": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "meshd-coordinator api-token create"}},
            "schemas": {"Problem": {"type": "object", "required": ["type", "title", "status", "detail"], "properties": {
                "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                "detail": {"type": "string"}, "hint": {"type": "string"},
                "errors": {"type": "array", "items": {"type": "string"}},
            }}},
        },
    })
}

pub(super) async fn show(actor: Asker) -> Result<Json<Value>, Problem> {
    Service::require(&actor, Permission::ReadStatus)?;
    Ok(Json(document()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views;

    /// The fields that a type takes, as its own refusal of another one names them.
    fn taken<T: serde::de::DeserializeOwned>() -> Vec<String> {
        let Err(error) = serde_json::from_str::<T>(r#"{"no-such-field": 1}"#) else { return Vec::new() };
        let text = error.to_string();
        let list = text.split_once("expected").map(|(_, rest)| rest.to_owned()).unwrap_or(text);
        let mut found: Vec<String> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        found.sort();
        found
    }

    #[test]
    fn every_body_is_described_with_the_fields_that_its_type_takes() {
        let bodies: [(&str, &str, Vec<String>); 12] = [
            ("PATCH", "/api/v1/nodes/{name}", taken::<views::NodeEdit>()),
            ("POST", "/api/v1/nodes/{name}/routes/approve", taken::<views::RoutesInput>()),
            ("POST", "/api/v1/nodes/{name}/devices", taken::<views::DeviceInput>()),
            ("POST", "/api/v1/tokens", taken::<views::TokenInput>()),
            ("POST", "/api/v1/api-tokens", taken::<views::ApiTokenInput>()),
            ("PATCH", "/api/v1/users/{name}", taken::<views::UserEdit>()),
            ("POST", "/api/v1/invitations", taken::<views::InvitationInput>()),
            ("POST", "/api/v1/dns/records", taken::<views::RecordBody>()),
            ("PUT", "/api/v1/dns/declared", taken::<crate::service::Declared>()),
            ("PUT", "/api/v1/policy", taken::<views::PolicyInput>()),
            ("POST", "/api/v1/policy/plan", taken::<views::PolicyInput>()),
            ("POST", "/api/v1/policy/rollback", taken::<views::RollbackInput>()),
        ];
        for (method, path, mut wanted) in bodies {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let mut said: Vec<String> =
                fields(&method, path).unwrap().iter().map(|f| f.0.to_owned()).collect();
            wanted.sort();
            said.sort();
            assert!(!wanted.is_empty());
            assert_eq!(said, wanted, "{method} {path}");
        }
    }

    #[test]
    fn the_description_has_every_route_of_the_api_and_what_it_needs() {
        let document = document();
        for row in table().iter().filter(|r| r.face == Face::Api) {
            let said = &document["paths"][row.path][row.method.as_str().to_lowercase()];
            assert_eq!(said["summary"], row.about);
            assert!(said["x-permission"].is_string(), "{} {}", row.method, row.path);
        }
    }
}
