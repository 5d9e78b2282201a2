//! `make bench-dns`: what a question costs our resolver, beside NSD, unbound, dnsmasq and a bare echo, all in
//! the same run, each in a process of its own on a processor of its own, asked over loopback by one generator.
//!
//! Measured is the CPU time of the server's threads as the kernel's scheduler counts it, by answered question:
//! of names that a server knows by itself ("mesh names"), and of names that it has asked NSD for before
//! ("cached"); in bursts, and one question at a time. Every reply is looked at: a wrong one ends the run.
//!
//! Then an overload: more questions than it can answer, and more unknown names than it may have under way.
//! Its memory must stay bounded, and it must answer as before afterwards.

mod clock;
mod contestant;
mod generator;
mod overload;
mod question;
mod report;
mod serve;

use anyhow::{Context, Result, bail};
use contestant::{Contestant, Make, PROCESSORS};
use generator::{Generator, Load};
use question::Names;
use report::Row;
use std::time::Duration;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--echo", addr] => serve::echo(addr.parse()?),
        ["--names", addr, upstream] => serve::names(addr.parse()?, upstream.parse()?),
        [] => compare(),
        _ => bail!("usage: meshd-bench-dns (ROUNDS= and SLICE_MS= in the environment)"),
    }
}

fn setting(name: &str, usual: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a whole number")),
        Err(_) => Ok(usual),
    }
}

fn compare() -> Result<()> {
    let rounds = usize::try_from(setting("ROUNDS", 7)?)?.max(1);
    let slice = Duration::from_millis(setting("SLICE_MS", 1000)?.max(50));
    contestant::pin(None, PROCESSORS.1)?;
    let upstream = Contestant::start(Make::Nsd, None)?;
    contestant::pin(Some(upstream.id()), PROCESSORS.1)?;
    let all: Vec<Contestant> =
        Make::ALL.iter().map(|make| Contestant::start(*make, Some(upstream.addr))).collect::<Result<_>>()?;
    let mut rows: Vec<Row> = Vec::new();
    for names in [Names::Mesh, Names::Cached] {
        let mut generators = Vec::new();
        for contestant in &all {
            if !contestant.make.answers(names) {
                continue;
            }
            contestant::pin(Some(contestant.id()), PROCESSORS.0)?;
            let mut generator = Generator::new(contestant.addr, names, contestant.make.checks())?;
            generator.warm().with_context(|| format!("{} does not answer", contestant.make.title()))?;
            generators.push((contestant, generator));
        }
        for load in [Load::Bursts, Load::Single] {
            eprintln!("{}, {}…", names.title(), load.title());
            let mut samples = vec![Vec::new(); generators.len()];
            // Round by round, so that what else the machine does meets all of them.
            for _ in 0..rounds {
                for ((contestant, generator), samples) in generators.iter_mut().zip(&mut samples) {
                    let before = contestant.cpu()?;
                    let answered = generator
                        .run(load, slice)
                        .with_context(|| format!("{}, {}", contestant.make.title(), names.title()))?;
                    let spent = contestant.cpu()?.saturating_sub(before);
                    samples.push((spent.as_nanos() as f64 / answered.max(1) as f64, answered));
                }
            }
            for ((contestant, _), samples) in generators.iter().zip(samples) {
                rows.push(Row::new(contestant, names, load, samples, slice));
            }
        }
    }
    report::judge(&mut rows);
    report::print(&rows);
    drop(all);
    let overload = overload::measure(upstream.addr)?;
    overload.print();
    report::write(&rows, &overload, rounds)?;
    overload.verdict()
}
