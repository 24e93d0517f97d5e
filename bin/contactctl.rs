//! `contactctl`: the operator's commands, on the server's control address.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use contact::ctl;

fn main() -> ExitCode {
    // C-core's own log is for those who ask for it with RUST_LOG.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    grpcio::redirect_log();
    // Where CONTACT_CONTROL is set, clap takes that for an argument, and would not show its help.
    if std::env::args_os().len() == 1 {
        let _ = ctl::Args::command().print_help();
        return ExitCode::from(2);
    }
    let args = ctl::Args::parse();
    let json = args.json;
    match ctl::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough (`| head`).
        Err(ctl::Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "{}", e.line(json));
            ExitCode::from(e.exit_code())
        }
    }
}
