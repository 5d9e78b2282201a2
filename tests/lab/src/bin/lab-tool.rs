//! Small servers and clients for machines of the lab, with the standard library only:
//! `lab-tool http ADDRESS FILE` · `lab-tool udp-echo ADDRESS` · `lab-tool udp-ask ADDRESS TEXT [FROM-PORT]` ·
//! `lab-tool tcp-echo ADDRESS` · `lab-tool tcp-hold ADDRESS SECONDS`. Never for production.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
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
        ["tcp-hold", address, seconds] => tcp_hold(address, seconds.parse()?),
        _ => bail!(
            "usage: lab-tool http|udp-echo|tcp-echo ADDRESS … · udp-ask ADDRESS TEXT [FROM-PORT] · tcp-hold ADDRESS SECONDS"
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
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
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
