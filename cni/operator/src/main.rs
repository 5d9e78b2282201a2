//! `meshd-operator`: gives Services of type LoadBalancer addresses on the mesh.
//!
//! It talks to the API server and to the coordinator, and to nobody else. It changes no network: nodes do what
//! their map says.

mod clock;
mod controller;
mod coordinator;
mod crd;
mod lease;
mod plan;
mod pool;
mod rbac;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use coordinator::{Coordinator, Fingerprint};
use meshd_proto::Hostname;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Gives Services of type LoadBalancer addresses on the mesh.
#[derive(Debug, Parser)]
#[command(name = "meshd-operator", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator: in the cluster, or with the kubeconfig of the environment
    Run(RunArgs),
    /// Print the custom resource definitions, for `kubectl apply -f -`
    Crds,
    /// Print account, roles and bindings, for `kubectl apply -f -`
    Rbac {
        /// The namespace that the operator runs in
        #[arg(long, default_value = "meshd")]
        namespace: String,
    },
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The cluster's name in the mesh, as `meshd-coordinator clusters add` was told
    #[arg(long, env = "MESHD_CLUSTER")]
    cluster: Hostname,
    /// Where the coordinator's API is
    #[arg(long, env = "MESHD_COORDINATOR", value_name = "HOST:PORT")]
    coordinator: String,
    /// SHA-256 of the coordinator's certificate, as `meshd-coordinator serve` prints it
    #[arg(long, env = "MESHD_COORDINATOR_CERTIFICATE", value_name = "SHA256", value_parser = fingerprint)]
    certificate: Fingerprint,
    /// File with the credential of `meshd-coordinator clusters token`
    #[arg(long, env = "MESHD_TOKEN_FILE", value_name = "PATH")]
    token_file: PathBuf,
    /// The namespace that the operator runs in: its Lease is there
    #[arg(long, env = "POD_NAMESPACE", default_value = "meshd")]
    namespace: String,
    /// This operator among others
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Services without a loadBalancerClass are ours, too
    #[arg(long)]
    default_class: bool,
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.parse()
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Crds => print(&crd::definitions()),
        Command::Rbac { namespace } => print(&rbac::manifests(&namespace)),
        Command::Run(args) => start(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(document: &serde_json::Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(document)?);
    Ok(())
}

fn start(args: RunArgs) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("MESHD_LOG").unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    // kube asks for the process's provider; there is one in this program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(Box::pin(run(args)))
}

async fn run(args: RunArgs) -> Result<()> {
    let token = std::fs::read_to_string(&args.token_file)
        .with_context(|| format!("cannot read the credential in {}", args.token_file.display()))?;
    let coordinator =
        Coordinator::new(args.coordinator, args.certificate, args.cluster, token.trim().to_owned())?;
    let client = kube::Client::try_default().await.context(
        "no way to the API server: run in a pod with a ServiceAccount, or set KUBECONFIG to a kubeconfig",
    )?;
    let identity = args.identity.unwrap_or_else(|| format!("meshd-operator-{}", std::process::id()));
    let settings =
        controller::Settings { namespace: args.namespace, identity, default_class: args.default_class };
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    controller::run(client, coordinator, settings, stop).await
}
