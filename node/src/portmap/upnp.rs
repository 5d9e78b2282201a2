//! UPnP-IGD: found by SSDP, described by XML, commanded by SOAP. No XML parser: the few elements that are
//! needed are found by name, in bounded text, and what is not understood is no answer.
//!
//! Only the default gateway is listened to: a description or a control address elsewhere is refused.

use crate::clock;
use crate::udp;
use meshd_proto::Endpoint;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);
/// Search, and each exchange with the router.
const SEARCH: Duration = Duration::from_millis(1500);
const EXCHANGE: Duration = Duration::from_secs(3);
/// Longest answer of a router that is read.
const MAX_ANSWER: u64 = 128 << 10;
/// What a gateway's service for port mappings may be called.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Where a gateway takes commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    address: SocketAddr,
    path: String,
    service: &'static str,
}

/// Maps `wanted` (or another port) of the gateway to `local:port`.
pub(super) async fn map(
    gateway: Ipv4Addr,
    local: Ipv4Addr,
    port: u16,
    wanted: u16,
    lifetime: Duration,
) -> Option<(Control, Endpoint)> {
    let (address, path) = search(gateway).await?;
    let description = request(address, &format!("GET {path} HTTP/1.1\r\n"), "").await?;
    let control = control_of(&description, address)?;
    let answer = command(&control, "GetExternalIPAddress", "").await?;
    let ip: Ipv4Addr = element(&answer, "NewExternalIPAddress")?.trim().parse().ok()?;
    // Some routers know only permanent mappings (error 725).
    for lease in [lifetime.as_secs(), 0] {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{wanted}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
             <NewInternalClient>{local}</NewInternalClient><NewEnabled>1</NewEnabled>\
             <NewPortMappingDescription>meshd</NewPortMappingDescription>\
             <NewLeaseDuration>{lease}</NewLeaseDuration>"
        );
        if command(&control, "AddPortMapping", &arguments).await.is_some() {
            return Some((control, Endpoint(SocketAddr::new(ip.into(), wanted))));
        }
    }
    None
}

/// Takes a mapping back.
pub(super) async fn unmap(control: &Control, port: u16) {
    let arguments = format!(
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort><NewProtocol>UDP</NewProtocol>"
    );
    if command(control, "DeletePortMapping", &arguments).await.is_none() {
        tracing::debug!("the router kept a port mapping; it ends by itself");
    }
}

/// Where the gateway describes itself.
async fn search(gateway: Ipv4Addr) -> Option<(SocketAddr, String)> {
    let socket = UdpSocket::from_std(udp::bind_spare(false).ok()?).ok()?;
    for version in [1, 2] {
        let question = format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
             ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
        );
        // To the group, and to the gateway itself (UPnP 1.1 §1.3.2), where switches eat multicast.
        for to in [SSDP, SocketAddr::new(gateway.into(), 1900)] {
            let _ = socket.send_to(question.as_bytes(), to).await;
        }
    }
    let end = clock::timer_now() + SEARCH;
    let mut room = [0; 2048];
    while let Ok(Ok((len, from))) = tokio::time::timeout_at(end, socket.recv_from(&mut room)).await {
        let text = String::from_utf8_lossy(&room[..len]);
        let location = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
        });
        if from.ip() == IpAddr::V4(gateway)
            && let Some((address, path)) = location.as_deref().and_then(http_address)
            && address.ip() == IpAddr::V4(gateway)
        {
            return Some((address, path));
        }
    }
    None
}

/// `http://1.2.3.4:5/path` → address and path. Names are not resolved.
fn http_address(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address =
        host.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(host.parse().ok()?, 80)))?;
    is_clean(path).then(|| (address, format!("/{path}")))
}

/// Printable, without anything that could end a header.
fn is_clean(path: &str) -> bool {
    path.len() < 512 && path.bytes().all(|b| b.is_ascii_graphic())
}

/// The first element with that name, without its tags.
fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn control_of(description: &str, address: SocketAddr) -> Option<Control> {
    for service in SERVICES {
        for block in description.split("<service>").skip(1) {
            let block = block.split("</service>").next()?;
            if element(block, "serviceType").map(str::trim) != Some(service) {
                continue;
            }
            let url = element(block, "controlURL")?.trim();
            let path = match http_address(url) {
                Some((at, path)) if at == address => path,
                Some(_) => return None,
                None => format!("/{}", url.trim_start_matches('/')),
            };
            return is_clean(&path).then_some(Control { address, path, service });
        }
    }
    None
}

async fn command(control: &Control, action: &str, arguments: &str) -> Option<String> {
    let Control { address, path, service } = control;
    let body = format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
         <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
    );
    let head = format!(
        "POST {path} HTTP/1.1\r\nSOAPAction: \"{service}#{action}\"\r\n\
         Content-Type: text/xml; charset=\"utf-8\"\r\n"
    );
    request(*address, &head, &body).await
}

/// One exchange; the body of a 200 answer.
async fn request(address: SocketAddr, head: &str, body: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let text = format!(
            "{head}Host: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.lines().next()?.split_whitespace().nth(1)?;
        (status == "200").then(|| body.to_owned())
    };
    tokio::time::timeout(EXCHANGE, exchange).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_address_elsewhere_is_refused() {
        let address: SocketAddr = "192.168.1.1:5000".parse().unwrap();
        let service = |url: &str| {
            format!(
                "<root><service><serviceType>{}</serviceType><controlURL>{url}</controlURL></service></root>",
                SERVICES[1]
            )
        };
        let control = control_of(&service("/ctl/IPConn"), address).unwrap();
        assert_eq!((control.path.as_str(), control.service), ("/ctl/IPConn", SERVICES[1]));
        assert_eq!(control_of(&service("http://192.168.1.1:5000/ctl"), address).unwrap().path, "/ctl");
        assert_eq!(control_of(&service("http://192.0.2.1/ctl"), address), None);
        assert_eq!(control_of(&service("/a\r\nX: y"), address), None);
        assert_eq!(control_of("<service><serviceType>other</serviceType></service>", address), None);
    }

    #[test]
    fn only_addresses_are_followed_never_names() {
        assert_eq!(
            http_address("http://192.168.1.1/x"),
            Some(("192.168.1.1:80".parse().unwrap(), "/x".to_owned()))
        );
        assert!(http_address("http://router.local/x").is_none());
        assert!(http_address("https://192.168.1.1/x").is_none());
        assert!(http_address("http://192.168.1.1/x y").is_none());
    }
}
