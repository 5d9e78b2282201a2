//! `meshd-coordinator`: see `meshd-coordinator --help`.

fn main() -> std::process::ExitCode {
    meshd_coordinator::cli::main()
}
