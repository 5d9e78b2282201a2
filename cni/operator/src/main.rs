//! `meshd-operator`: the Kubernetes operator. This release has its name and version only; it talks to no
//! cluster and has no custom resource to print.

use clap::Parser;
use std::process::ExitCode;

/// Kubernetes operator of a mesh. Not part of this release.
#[derive(Parser)]
#[command(name = "meshd-operator", version)]
struct Arguments {}

fn main() -> ExitCode {
    Arguments::parse();
    eprintln!("meshd-operator: the Kubernetes operator is not part of this release; only --version answers");
    ExitCode::from(2)
}
