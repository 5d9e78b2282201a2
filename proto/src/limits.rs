//! Bounds on everything that arrives from outside. One place, so that both sides agree.

/// Largest control message after reassembly, in bytes. A snapshot is sent in parts of at most this.
pub const MAX_CONTROL_MESSAGE: usize = 1 << 20;
/// Largest Noise frame (Noise specification §3: 65535 bytes including the 16-byte tag).
pub const MAX_NOISE_FRAME: usize = 65_535;
/// Largest local-API message in bytes.
pub const MAX_LOCAL_MESSAGE: usize = 1 << 20;
/// Most entries in one part of a map update; a sender splits above it.
pub const MAX_UPDATE_ENTRIES: usize = 512;
/// Most map entries a node accepts in total (10,000 nodes with routes, rules and records fit).
pub const MAX_MAP_ENTRIES: usize = 200_000;
/// Most prefixes one node may advertise.
pub const MAX_ADVERTISED_ROUTES: usize = 256;
/// Most endpoints in one hint; more are cut by the sender.
pub const MAX_ENDPOINTS: usize = 32;
/// Most peers a node may name in one interest message.
pub const MAX_INTEREST: usize = 1024;
/// Most peers whose paths a node reports in one message.
pub const MAX_PATHS: usize = 1024;
/// Longest host label (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// Longest domain name in text form (RFC 1035 §2.3.4: 255 octets on the wire).
pub const MAX_NAME: usize = 253;
/// Most sources or destinations in one filter rule.
pub const MAX_RULE_TERMS: usize = 1024;
/// Most values in one DNS record set.
pub const MAX_RECORD_VALUES: usize = 64;
/// Longest text of a join token.
pub const MAX_TOKEN_TEXT: usize = 2048;
/// Longest free-text field (reasons, descriptions, client versions).
pub const MAX_TEXT: usize = 1024;
/// Largest UDP payload we ever build or accept.
pub const MAX_DATAGRAM: usize = 65_507;
/// Largest gateway configuration in bytes.
pub const MAX_GATEWAY_CONFIG: usize = 8 << 20;
/// Most listeners of a gateway.
pub const MAX_GATEWAY_LISTENERS: usize = 256;
/// Most routes of a gateway.
pub const MAX_GATEWAY_ROUTES: usize = 4096;
/// Most backends of a gateway.
pub const MAX_GATEWAY_BACKENDS: usize = 4096;
/// Most endpoints of one backend.
pub const MAX_GATEWAY_ENDPOINTS: usize = 1024;
/// Most certificates of a gateway.
pub const MAX_GATEWAY_CERTIFICATES: usize = 1024;
/// Most names, rules, matches or changes in one list of a gateway configuration.
pub const MAX_GATEWAY_TERMS: usize = 256;
/// Most claims of a node, and most ports that an exit says it cannot serve.
pub const MAX_CLAIMS: usize = 64;
/// Most services that one cluster publishes.
pub const MAX_CLUSTER_SERVICES: usize = 1024;
/// Most address ranges that are delegated to one cluster.
pub const MAX_CLUSTER_RANGES: usize = 32;
/// Most addresses of one service.
pub const MAX_SERVICE_ADDRESSES: usize = 8;
/// Most ports, and most allowed sources, of one service.
pub const MAX_SERVICE_PORTS: usize = 128;
/// Most nodes that serve one port of a service.
pub const MAX_SERVICE_OWNERS: usize = 256;
/// Most endpoints of one port on one node.
pub const MAX_SERVICE_ENDPOINTS: usize = 32;
