//! `contactctl`: the operator's commands, on the server's control address.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use contact::ctl;
use contact::terminal::print_usage;

fn main() -> ExitCode {
    // C-core's own log is for those who ask for it with RUST_LOG.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    grpcio::redirect_log();
    // Where CONTACT_CONTROL is set, clap takes that for an argument, and would not show its help.
    if std::env::args_os().len() == 1 {
        let _ = ctl::Args::command().print_help();
        return ExitCode::from(2);
    }
    let (json, ran) = match ctl::Args::try_parse() {
        Ok(args) => (args.json, ctl::run(args)),
        Err(e) if e.use_stderr() && std::env::args_os().any(|arg| arg == "--json") => {
            (true, Err(ctl::Error::usage(&e)))
        }
        Err(e) => {
            print_usage(&e);
            return ExitCode::from(e.exit_code() as u8);
        }
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough (`| head`).
        Err(ctl::Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "{}", e.line(json));
            ExitCode::from(e.exit_code())
        }
    }
}
