//! Small servers and clients for machines of the lab, with the standard library only:
//! `lab-tool http ADDRESS FILE` · `lab-tool udp-echo ADDRESS` · `lab-tool udp-ask ADDRESS TEXT [FROM-PORT]` ·
//! `lab-tool tcp-echo ADDRESS` · `lab-tool tcp-hold ADDRESS SECONDS` · `lab-tool dns ADDRESS NAME IPV4` ·
//! `lab-tool socks-dns PROXY SERVER-NAME NAME` · `lab-tool stream-send ADDRESS MIB` ·
//! `lab-tool stream-check ADDRESS`. Never for production.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["http", address, file] => http(address, file),
        ["udp-echo", address] => udp_echo(address),
        ["udp-ask", address, text] => udp_ask(address, text, 0),
        ["udp-ask", address, text, port] => udp_ask(address, text, port.parse()?),
        ["tcp-echo", address] => tcp_echo(address),
        ["stream-send", address, mib] => stream_send(address, mib.parse()?),
        ["stream-check", address] => stream_check(address),
        ["tcp-hold", address, seconds] => tcp_hold(address, seconds.parse()?),
        ["zone", address, file] => zone(address, file),
        ["dns", address, name, ip] => dns::serve(address, name, ip.parse()?),
        ["socks-dns", proxy, server, name] => dns::ask_through(proxy, server, name),
        _ => bail!(
            "usage: lab-tool http|udp-echo|tcp-echo ADDRESS … · udp-ask ADDRESS TEXT [FROM-PORT] · tcp-hold ADDRESS SECONDS · dns ADDRESS NAME IPV4 · socks-dns PROXY SERVER-NAME NAME"
        ),
    }
}

/// Answers every request with the bytes of `file`.
fn http(address: &str, file: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    for stream in listener.incoming() {
        let file = file.to_owned();
        thread::spawn(move || {
            if let Err(error) = answer(stream, &file) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(stream: std::io::Result<TcpStream>, file: &str) -> Result<()> {
    let mut stream = stream?;
    let mut line = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = std::fs::read(file)?;
    println!("{} asks", stream.peer_addr()?);
    let kind = if body.starts_with(b"<!doctype html>") { "text/html" } else { "application/octet-stream" };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)?;
    Ok(())
}

/// Bytes that a stream is made and compared in.
const STREAM_CHUNK: usize = 1 << 18;

/// The stream that both ends of a transfer make: xorshift, so that every place has bytes of its own.
struct Stream(u64);

impl Stream {
    fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.as_chunks_mut::<8>().0 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *word = self.0.to_le_bytes();
        }
    }
}

/// Sends `mib` MiB of the stream and waits until the other side has all of it.
fn stream_send(address: &str, mib: u64) -> Result<()> {
    let mut socket = TcpStream::connect(address)?;
    let (mut stream, mut chunk) = (Stream(0x9e37_79b9_7f4a_7c15), vec![0; STREAM_CHUNK]);
    for _ in 0..(mib << 20) / STREAM_CHUNK as u64 {
        stream.fill(&mut chunk);
        socket.write_all(&chunk)?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    socket.read_exact(&mut [0])?;
    Ok(())
}

/// Takes one connection and compares what comes with the stream.
fn stream_check(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    let (mut socket, _) = listener.accept()?;
    let (mut stream, mut total) = (Stream(0x9e37_79b9_7f4a_7c15), 0);
    let (mut wanted, mut got) = (vec![0; STREAM_CHUNK], vec![0; STREAM_CHUNK]);
    loop {
        let mut filled = 0;
        while filled < STREAM_CHUNK {
            match socket.read(&mut got[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        stream.fill(&mut wanted);
        if wanted[..filled] != got[..filled] {
            bail!("the bytes from {total} on are not what was sent");
        }
        total += filled;
    }
    println!("{total} bytes, as they were sent");
    socket.write_all(&[1])?;
    Ok(())
}

/// Answers every datagram with where it came from and what it was.
fn udp_echo(address: &str) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    let mut buffer = [0; 65536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        println!("{from} sends {length} bytes");
        let mut reply = format!("{from} ").into_bytes();
        reply.extend(&buffer[..length]);
        socket.send_to(&reply, from)?;
    }
}

/// Sends a datagram and prints the answer; fails after 1 s without one.
fn udp_ask(address: &str, text: &str, port: u16) -> Result<()> {
    let any = if address.starts_with('[') { "[::]" } else { "0.0.0.0" };
    let socket = UdpSocket::bind(format!("{any}:{port}"))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send_to(text.as_bytes(), address)?;
    let mut buffer = [0; 65536];
    let (length, _) = socket.recv_from(&mut buffer).context("no answer within 1 s")?;
    println!("{}", String::from_utf8_lossy(&buffer[..length]));
    Ok(())
}

fn tcp_echo(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    for stream in listener.incoming() {
        thread::spawn(move || -> Result<()> {
            let mut stream = stream?;
            let mut buffer = [0; 4096];
            loop {
                let length = stream.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..length])?;
            }
        });
    }
    Ok(())
}

/// Sends a line every 100 ms over one connection and prints what comes back, for `seconds`. A line that
/// does not come back within a second ends it with an error.
fn tcp_hold(address: &str, seconds: u32) -> Result<()> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    println!("connected");
    for number in 0..seconds * 10 {
        let line = format!("line {number}\n");
        stream.write_all(line.as_bytes())?;
        let mut reply = vec![0; line.len()];
        stream.read_exact(&mut reply).with_context(|| format!("line {number} did not come back"))?;
        println!("{}", line.trim());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A DNS server that knows one name, and a client that asks one through UDP ASSOCIATE of SOCKS5.
mod dns {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
    use std::time::Duration;

    use anyhow::{Context, Result, ensure};

    const HEADER: usize = 12;

    fn question(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.to_ascii_lowercase().bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    pub(super) fn serve(address: &str, name: &str, ip: Ipv4Addr) -> Result<()> {
        let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        println!("listening on {address}");
        let known = question(name);
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer)?;
            let asked = &buffer[..length];
            println!("asked by {from}");
            if length < HEADER + known.len() {
                continue;
            }
            let hit = asked[HEADER..HEADER + known.len()].eq_ignore_ascii_case(&known);
            // Recursion available; NXDOMAIN for everything else.
            let mut reply =
                vec![asked[0], asked[1], 0x81, if hit { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(hit)];
            reply.extend([0, 0, 0, 0]);
            let end = asked[HEADER..].iter().position(|b| *b == 0).unwrap_or(0) + HEADER + 5;
            reply.extend(&asked[HEADER..end.min(length)]);
            if hit {
                reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
                reply.extend(ip.octets());
            }
            socket.send_to(&reply, from)?;
        }
    }

    pub(super) fn ask_through(proxy: &str, server: &str, name: &str) -> Result<()> {
        let mut control = TcpStream::connect(proxy).context("no proxy")?;
        control.set_read_timeout(Some(Duration::from_secs(5)))?;
        control.write_all(&[5, 1, 0])?;
        let mut two = [0; 2];
        control.read_exact(&mut two)?;
        ensure!(two == [5, 0], "greeting answered with {two:?}");
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
        let mut reply = [0; 10];
        control.read_exact(&mut reply)?;
        ensure!(reply[..4] == [5, 0, 0, 1], "associate answered with {reply:?}");
        let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
        let relay = SocketAddr::from((ip, u16::from_be_bytes([reply[8], reply[9]])));
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut query = vec![0, 0, 0, 3, server.len() as u8];
        query.extend(server.bytes());
        query.extend([0, 53]);
        query.extend([0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        query.extend(question(name));
        let mut buffer = [0; 1500];
        for _ in 0..5 {
            socket.send_to(&query, relay)?;
            let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
            // Header of the proxy (its address is an IPv4 one), then the answer, whose record comes last.
            ensure!(length > 14 && buffer[..4] == [0, 0, 0, 1] && buffer[10..12] == [0x12, 0x34], "not ours");
            let octets: [u8; 4] = buffer[length - 4..length].try_into()?;
            println!("{name} has address {}", Ipv4Addr::from(octets));
            return Ok(());
        }
        anyhow::bail!("no answer through {relay}")
    }
}

/// A resolver that knows the IPv4 addresses in `file`, one `NAME ADDRESS` on a line, and reads it anew for
/// each question. Other names do not exist.
fn zone(address: &str, file: &str) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("listening on {address}");
    let mut packet = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut packet)?;
        let Some((name, end)) = question(&packet[..length]) else { continue };
        let kind = u16::from_be_bytes([packet[end - 4], packet[end - 3]]);
        println!("{from} asks for {name} {kind}");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let known = text.lines().find_map(|line| {
            let (known, address) = line.split_once(' ')?;
            known.eq_ignore_ascii_case(&name).then(|| address.trim().parse::<Ipv4Addr>().ok())?
        });
        let mut reply = packet[..end].to_vec();
        reply[2] = 0x85 | (reply[2] & 0x01);
        reply[3] = if known.is_some() { 0x80 } else { 0x83 };
        reply[6..12].fill(0);
        if let (Some(ip), 1) = (known, kind) {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            reply.extend(ip.octets());
        }
        socket.send_to(&reply, from)?;
    }
}

/// The name that a packet asks for, and where its question ends.
fn question(packet: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        let label = packet.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(label).into_owned());
    }
    (at + 4 <= packet.len()).then(|| (labels.join("."), at + 4))
}
