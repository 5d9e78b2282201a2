//! `meshd-gateway`: the program.

fn main() -> std::process::ExitCode {
    meshd_gateway::cli::main()
}
