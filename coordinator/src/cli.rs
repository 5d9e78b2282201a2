//! The command line: one file per command group. A command asks the running coordinator over its unix
//! socket, makes an `Output` of the answer, and only this file prints.

mod api_token;
mod audit;
mod backup;
mod clusters;
mod dns;
mod duration;
mod input;
mod join;
mod nodes;
mod output;
mod policy;
mod publish;
mod relays;
mod routes;
mod shell;
mod status;
mod table;
mod token;
mod users;

use crate::client::Client;
use crate::serve::{self, ServeOptions};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use output::{Failure, Output};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Who is in the mesh and what each may know.
#[derive(Debug, Parser)]
#[command(name = "meshd-coordinator", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Args)]
struct Global {
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// Unix socket of the running coordinator
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/meshd-coordinator/api.sock",
        env = "MESHD_COORDINATOR_SOCKET"
    )]
    socket: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator, with relay and STUN inside
    Serve(Box<ServeOptions>),
    /// Show the mesh at a glance
    Status,
    /// Join tokens: what lets a machine in
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Machines that ask to be let in without a token
    #[command(subcommand)]
    Join(join::JoinCommand),
    /// The machines of the mesh
    #[command(subcommand, visible_alias = "node")]
    Nodes(nodes::NodesCommand),
    /// Prefixes behind nodes
    #[command(subcommand, visible_alias = "route")]
    Routes(routes::RoutesCommand),
    /// Show the public exits of this mesh
    #[command(visible_alias = "exit")]
    Exits,
    /// What nodes publish on public exits
    #[command(subcommand, visible_alias = "exposure")]
    Exposures(publish::ExposuresCommand),
    /// Relays beside the coordinator's own
    #[command(subcommand, visible_alias = "relay")]
    Relays(relays::RelaysCommand),
    /// Kubernetes clusters and the addresses of their Services
    #[command(subcommand, visible_alias = "cluster")]
    Clusters(clusters::ClustersCommand),
    /// Names for hosts that are not nodes
    #[command(subcommand)]
    Dns(dns::DnsCommand),
    /// Who may reach what
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Tokens for programs that use the REST API
    #[command(subcommand)]
    ApiToken(api_token::ApiTokenCommand),
    /// People who may sign in to the web admin
    #[command(subcommand, visible_alias = "user")]
    Users(users::UsersCommand),
    /// Print a new link that makes an owner of the web admin, once, within an hour
    AdminLink,
    /// Who changed what
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Copy the database of the running coordinator, keys included, to a new file
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the database; the coordinator must be stopped
    Restore(backup::RestoreArgs),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write all of them to a directory
    Man(shell::ManArgs),
    /// Print the version
    Version,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let json = cli.global.json;
    let done = match runtime(&cli.command) {
        Ok(runtime) => runtime.block_on(Box::pin(run(cli))),
        Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
    };
    match done.map(|output| output.render(json)) {
        Ok(text) => match std::io::stdout().lock().write_all(text.as_bytes()) {
            // The reader had enough: `… | head`.
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        },
        Err(failure) => {
            let _ = std::io::stderr().lock().write_all(failure.render(json).as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    if matches!(command, Command::Serve(_)) {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    }
}

async fn run(cli: Cli) -> Result<Output, Failure> {
    let client = Client::new(&cli.global.socket);
    match cli.command {
        Command::Serve(mut options) => {
            options.socket = cli.global.socket;
            options.json = cli.global.json;
            start_log();
            serve::run(*options).await.map_err(Failure::from_anyhow)?;
            Ok(Output::silent())
        }
        Command::Status => status::run(&client).await,
        Command::Token(command) => token::run(command, &client).await,
        Command::Join(command) => join::run(command, &client).await,
        Command::Nodes(command) => nodes::run(command, &client).await,
        Command::Routes(command) => routes::run(command, &client).await,
        Command::Exits => publish::exits(&client).await,
        Command::Exposures(command) => publish::run(command, &client).await,
        Command::Relays(command) => relays::run(command, &client).await,
        Command::Clusters(command) => clusters::run(command, &client).await,
        Command::Dns(command) => dns::run(command, &client).await,
        Command::Policy(command) => policy::run(command, &client).await,
        Command::ApiToken(command) => api_token::run(command, &client).await,
        Command::Users(command) => users::run(command, &client).await,
        Command::AdminLink => users::admin_link(&client).await,
        Command::Audit(command) => audit::run(command, &client).await,
        Command::Backup(args) => backup::backup(&args, &client).await,
        Command::Restore(args) => backup::restore(&args).await,
        Command::Completions(args) => Ok(shell::completions(&args, Cli::command())),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Version => Ok(status::version()),
    }
}

/// Logs go to standard error, without times where systemd adds its own.
fn start_log() {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("MESHD_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal()).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.without_time().init();
    } else {
        builder.init();
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests;
