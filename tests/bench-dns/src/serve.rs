//! The two servers that are this program itself: the bare echo, and our resolver as a node runs it.

use crate::question::{NAMES, Names};
use anyhow::{Context, Result};
use meshd_dns::{DnsServer, Listener, Names as Resolver, Scope, Upstream};
use meshd_proto::netmap::{DnsConfig, Entry, RecordSet, RecordType, RecordValue, SelfNode, SplitRoute};
use meshd_proto::{ClassId, Endpoint, MeshAddrs, MeshPrefixes, NetworkId, NetworkMap, NodeId};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// One call to receive, one to send: what a datagram costs at least when they are taken one by one.
pub(crate) fn echo(addr: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(addr)?;
    let mut bytes = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..len], from)?;
    }
}

/// Our resolver, with [`NAMES`] names of its own and `upstream` for the rest.
pub(crate) fn names(addr: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let resolver = Arc::new(Resolver::default());
        // It takes what is sent to it and says nothing.
        let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        resolver.set_map(&map(silent.local_addr()?)?, Scope::Full);
        resolver.set_upstreams(vec![Upstream { addr: upstream, mark: None }]);
        let listener = Listener { addr, ..Listener::own(addr.ip()) };
        let _server = DnsServer::spawn(&[listener], resolver).context("our resolver does not start")?;
        std::future::pending().await
    })
}

fn map(silent: SocketAddr) -> Result<NetworkMap> {
    let mut map = NetworkMap::empty(NetworkId::from_bytes([1; 16]));
    map.upsert(Entry::Me(SelfNode {
        id: NodeId(1),
        name: "pi".parse()?,
        addrs: MeshAddrs { v4: [100, 71, 0, 1].into(), v6: "fd7a:1:2::1".parse()? },
        class: ClassId(1),
        tags: vec![],
        prefixes: MeshPrefixes { v4: "100.71.0.0/16".parse()?, v6: "fd7a:1:2::/48".parse()? },
        approved_routes: vec![],
        pending_routes: vec![],
        key_expires: None,
        map_lease: 0,
    }));
    map.upsert(Entry::DnsConfig(DnsConfig {
        domain: Names::Mesh.domain().parse()?,
        search: vec![],
        split: vec![SplitRoute {
            suffix: Names::Unknown.domain().parse()?,
            upstreams: vec![Endpoint(silent)],
        }],
        nameservers: vec![],
        ttl: 60,
    }));
    for n in 0..NAMES {
        let values = vec![RecordValue::Address(IpAddr::from(Names::Mesh.address(n)))];
        map.upsert(Entry::Record(Names::Mesh.name(n).parse()?, RecordType::A, RecordSet { ttl: 60, values }));
    }
    Ok(map)
}
