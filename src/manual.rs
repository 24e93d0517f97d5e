//! Completions and man pages, from the definitions that --help comes from.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, ValueEnum};
pub use clap_complete::Shell;

/// For programs without subcommands: handles `--completions SHELL` and `--man` where they are the first argument. Returns the exit
/// code of the process; `None`: neither was asked for.
///
/// They are in no help: only packagers of the program run them.
pub fn asked(command: Command) -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let text = match args.next()?.to_str()? {
        "--man" => page(command),
        "--completions" => match args.next().as_ref().map(shell) {
            Some(Ok(shell)) => Ok(completions(command, shell)),
            bad => {
                let what = bad.and_then(Result::err).unwrap_or_else(|| "which shell is missing".into());
                let _ = writeln!(io::stderr(), "--completions: {what}");
                return Some(ExitCode::from(2));
            }
        },
        _ => return None,
    };
    let printed = text.and_then(|text| io::stdout().write_all(&text));
    Some(if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(name: &OsString) -> Result<Shell, String> {
    let known = || Shell::value_variants().iter().map(Shell::to_string).collect::<Vec<_>>().join(", ");
    let name = name.to_string_lossy();
    Shell::from_str(&name, true).map_err(|_| format!("there is none for {name:?}, only for {}", known()))
}

/// The script that makes `shell` complete the command line of the program.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    script
}

/// The man page of the program, in roff.
pub fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

/// Writes the man page of the program and of each of its subcommands into `dir`, which is made if it is missing.
pub fn pages(command: Command, dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)
}
