//! S1.1 where the private side may hardly speak: UDP blocked, and nothing but a CONNECT proxy.

use std::fs;

use anyhow::Result;
use meshd_lab::Nat;
use meshd_lab::mesh::peer;

use crate::fixture::{Net, with};

fn reached(net: &Net) -> Result<()> {
    net.join()?;
    net.website(3000, "through a keyhole")?;
    let run = net.expose(&["3000", "--public"], "http://")?;
    let url = Net::url(&run)?;
    net.reads(&[&url], "through a keyhole")?;
    let path = peer(&net.net.laptop, "exit1")?["path"].clone();
    with("S1.1", &format!("{url} answers; the laptop's path to the exit is {path}"));
    assert_eq!(path, "relay");
    Ok(())
}

#[test]
fn s1_1_where_udp_is_blocked_it_goes_by_tls_on_443() -> Result<()> {
    reached(&Net::with_nat("s1_1_https", Nat::HttpsOnly)?)
}

#[test]
fn s1_1_where_only_a_connect_proxy_gets_out_it_goes_through_that() -> Result<()> {
    let net = Net::with_nat("s1_1_proxy", Nat::Closed)?;
    let laptop = &net.net.laptop;
    let routes = laptop.sh("ip -4 route show default")?;
    let gateway = routes.split_whitespace().nth(2).unwrap_or_default().to_owned();
    let config = format!(
        "Port 3128\nListen {gateway}\nTimeout 600\nMaxClients 50\nConnectPort 443\nBasicAuth meshd s3cret\n"
    );
    fs::write(net.net.away.host.file("/etc/proxy.conf"), config)?;
    net.net.away.host.spawn("tinyproxy", ["-d", "-c", "/etc/proxy.conf"])?;
    fs::create_dir_all(laptop.file("/etc/meshd"))?;
    fs::write(
        laptop.file("/etc/meshd/meshd.toml"),
        format!("proxy = \"http://meshd:s3cret@{gateway}:3128\"\n"),
    )?;
    reached(&net)
}
