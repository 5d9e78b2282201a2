//! `meshd-gateway check`: is a configuration right, without serving it.

use crate::table::{Reach, Table};
use crate::tls::Material;
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct CheckArgs {
    /// The configuration, JSON
    file: PathBuf,
    /// Check it as an exit would: backends in the mesh only
    #[arg(long)]
    exit: bool,
    /// Do not read the certificates that it names
    #[arg(long)]
    no_files: bool,
    /// Answer as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let result = look(args);
    if args.json {
        let said = match &result {
            Ok(table) => serde_json::json!({
                "right": true, "generation": table.generation, "listeners": table.listeners().count(),
                "ports": table.binds.len(), "routes": table.stats.len(), "backends": table.backends.len(),
                "warnings": table.warnings,
            }),
            Err(error) => serde_json::json!({ "right": false, "error": format!("{error:#}") }),
        };
        println!("{said}");
    } else if let Ok(table) = &result {
        for warning in &table.warnings {
            println!("warning: {warning}");
        }
        println!(
            "right: generation {}, {} listeners, {} routes, {} backends",
            table.generation,
            table.listeners().count(),
            table.stats.len(),
            table.backends.len()
        );
    }
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            if !args.json {
                eprintln!("meshd-gateway: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn look(args: &CheckArgs) -> anyhow::Result<Table> {
    let config = crate::load(&args.file)?;
    let reach = if args.exit { Reach::MeshOnly } else { Reach::HostAndMesh };
    let refused = || format!("{} is refused", args.file.display());
    let table = Table::build(&config, reach, None).with_context(refused)?;
    if !args.no_files {
        Material::load(&config, &crate::acme::StandIn, None).with_context(refused)?;
    }
    Ok(table)
}
