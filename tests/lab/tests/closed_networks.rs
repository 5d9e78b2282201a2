//! Networks that pass nearly nothing: a node gets out all the same, and its traffic with it.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use meshd_lab::mesh::{Coordinator, SmallInternet, mesh_address, peer, ping_until, up};
use meshd_lab::{Host, Nat};

const PATIENCE: Duration = Duration::from_secs(30);

/// Joins both, the laptop last, and pings through the mesh both ways; the path has to be the relay.
fn reach_each_other(net: &SmallInternet, coordinator: &Coordinator) -> Result<()> {
    let token = coordinator.token()?;
    up(&net.pi, &[&token])?;
    up(&net.laptop, &[&token])?;
    let (pi, laptop) = (mesh_address(&net.pi)?.to_string(), mesh_address(&net.laptop)?.to_string());
    let began = meshd_lab::now();
    ping_until(&net.laptop, &pi, PATIENCE)?;
    println!("first answer {:?} after `up`", meshd_lab::now() - began);
    ping_until(&net.pi, &laptop, PATIENCE)?;
    assert_eq!(peer(&net.laptop, "pi")?["path"], "relay");
    // More than a packet: a quarter of a megabyte, whole.
    net.pi.sh("head -c 262144 /dev/urandom > /var/lib/body")?;
    let sent = fs::read(net.pi.file("/var/lib/body"))?;
    let server = net.pi.spawn("lab-tool", ["http", "0.0.0.0:8080", "/var/lib/body"])?;
    server.wait_for_log("listening", Duration::from_secs(5))?;
    let got = meshd_lab::mesh::fetch(&net.laptop, &format!("http://{pi}:8080/"))?;
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    Ok(())
}

#[test]
fn a_node_reaches_others_where_only_tcp_443_leaves() -> Result<()> {
    let net = SmallInternet::with_nats("https_only", Nat::Home, Nat::HttpsOnly)?;
    let coordinator = net.coordinator()?;
    reach_each_other(&net, &coordinator)
}

#[test]
fn two_nodes_that_may_both_use_tcp_443_only_reach_each_other() -> Result<()> {
    let net = SmallInternet::with_nats("https_only_both", Nat::HttpsOnly, Nat::HttpsOnly)?;
    let coordinator = net.coordinator()?;
    reach_each_other(&net, &coordinator)
}

#[test]
fn a_node_reaches_others_through_a_connect_proxy_and_nothing_else() -> Result<()> {
    let net = SmallInternet::with_nats("proxy_only", Nat::Home, Nat::Closed)?;
    let coordinator = net.coordinator()?;
    let gateway = gateway_of(&net.laptop)?;
    fs::write(
        net.away.host.file("/etc/proxy.conf"),
        format!(
            "Port 3128\nListen {gateway}\nTimeout 600\nMaxClients 50\nConnectPort 443\nBasicAuth meshd s3cret\n"
        ),
    )?;
    net.away.host.spawn("tinyproxy", ["-d", "-c", "/etc/proxy.conf"])?;
    fs::create_dir_all(net.laptop.file("/etc/meshd"))?;
    let settings = format!("proxy = \"http://meshd:s3cret@{gateway}:3128\"\n");
    fs::write(net.laptop.file("/etc/meshd/meshd.toml"), settings)?;
    reach_each_other(&net, &coordinator)
}

#[test]
fn a_coordinator_behind_a_reverse_proxy_that_passes_websocket_only_is_reached() -> Result<()> {
    let net = SmallInternet::new("reverse_proxy")?;
    let (front, front4, _) = net.lab.server("front")?;
    // Nodes are told the proxy's address only, and UDP leads to nothing there.
    let mut coordinator = Coordinator::start(&net.vps, front4)?;
    coordinator.address = net.vps4;
    reverse_proxy(&front, &net.vps4.to_string())?;
    reach_each_other(&net, &coordinator)
}

/// TLS ends at nginx; behind it only WebSocket passes.
fn reverse_proxy(front: &Host, backend: &str) -> Result<()> {
    front.sh(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=front \
         -keyout /etc/front.key -out /etc/front.pem",
    )?;
    fs::write(
        front.file("/etc/front.conf"),
        format!(
            "daemon off; error_log stderr; pid /run/front.pid;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log /dev/stdout; client_body_temp_path /run/b; proxy_temp_path /run/p; fastcgi_temp_path /run/f; \
             uwsgi_temp_path /run/u; scgi_temp_path /run/s;\n\
             server {{ listen 443 ssl; ssl_certificate /etc/front.pem; ssl_certificate_key /etc/front.key;\n\
             location / {{ if ($http_upgrade != websocket) {{ return 426; }}\n\
             proxy_pass http://{backend}:443; proxy_http_version 1.1; proxy_read_timeout 600s; \
             proxy_set_header Upgrade websocket; proxy_set_header Connection upgrade; }} }} }}\n"
        ),
    )?;
    front.spawn("nginx", ["-c", "/etc/front.conf"])?;
    Ok(())
}

fn gateway_of(host: &Host) -> Result<String> {
    let routes = host.sh("ip -4 route show default")?;
    Ok(routes.split_whitespace().nth(2).unwrap_or_default().to_owned())
}
