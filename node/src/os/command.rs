//! Running the few programs we need: bounded output, bounded time, errors that quote the answer.

use super::OsError;
use serde_json::Value;
use std::io::ErrorKind;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// The nftables program.
pub(crate) const NFT: &str = "nft";
/// Most output we take: a busy Kubernetes host prints a few megabytes.
const MAX_OUTPUT: u64 = 16 << 20;
/// Longest run.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Where programs are, for services that start with a bare environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs a program and takes its output as text.
pub(crate) async fn text(program: &'static str, args: &[&str]) -> Result<String, OsError> {
    run(program, args, "").await
}

/// Runs a program and takes its output as JSON.
pub(crate) async fn json(program: &'static str, args: &[&str]) -> Result<Value, OsError> {
    let printed = text(program, args).await?;
    serde_json::from_str(&printed).map_err(|e| OsError::Command {
        command: line(program, args),
        answer: format!("its output is not JSON: {e}"),
    })
}

/// Has nft execute a script as one transaction.
pub(crate) async fn nft_script(script: &str) -> Result<(), OsError> {
    tracing::debug!(script, "nft");
    run(NFT, &["-f", "-"], script).await.map(drop)
}

async fn run(program: &'static str, args: &[&str], input: &str) -> Result<String, OsError> {
    let failed = |answer: String| OsError::Command { command: line(program, args), answer };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound if program == NFT => OsError::NftMissing,
            _ => failed(e.to_string()),
        })?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let work = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that ends early says why in its exit status.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let read_out = async {
            match stdout {
                Some(stdout) => stdout.take(MAX_OUTPUT).read_to_end(&mut out).await.map(drop),
                None => Ok(()),
            }
        };
        let read_err = async {
            match stderr {
                Some(stderr) => stderr.take(4096).read_to_end(&mut err).await.map(drop),
                None => Ok(()),
            }
        };
        let ((), out, err) = tokio::join!(write, read_out, read_err);
        out?;
        err?;
        child.wait().await
    };
    let status = tokio::time::timeout(TIME_LIMIT, work)
        .await
        .map_err(|_| failed(format!("no end after {} s", TIME_LIMIT.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if status.success() {
        String::from_utf8(out).map_err(|_| failed("its output is not UTF-8".into()))
    } else {
        let said = String::from_utf8_lossy(&err);
        let said: Vec<&str> = said.lines().take(3).map(str::trim).filter(|l| !l.is_empty()).collect();
        Err(failed(if said.is_empty() { status.to_string() } else { said.join(" ") }))
    }
}

fn line(program: &str, args: &[&str]) -> String {
    format!("{program} {}", args.join(" "))
}
