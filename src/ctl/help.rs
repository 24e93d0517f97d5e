//! The first page of help: the commands by what they are for.

use std::fmt::Write as _;

use clap::Subcommand;
use clap::builder::StyledStr;
use clap::builder::styling::{AnsiColor, Styles};

use super::args::Command;
use super::error::EXIT_CODES;

/// Of all help and usage errors. clap leaves them out where there is no terminal, and with NO_COLOR.
pub(super) const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::BrightBlack.on_default());

const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Look:",
        &[
            "top", "groups", "clients", "tasks", "task", "results", "statuses", "dead", "server", "servers", "health",
            "doctor",
        ],
    ),
    (
        "Change:",
        &[
            "submit", "run", "schedule", "apply", "cancel", "retry", "pause", "resume", "drain", "undrain", "group",
            "clock", "backup",
        ],
    ),
    ("Let in:", &["invite", "identity", "cert", "dial"]),
    ("Measure:", &["bench"]),
    ("Set up:", &["token", "login", "completions", "man"]),
];

/// The template of the first page.
pub(super) fn overview() -> StyledStr {
    let commands = Command::augment_subcommands(clap::Command::new("contactctl"));
    let (header, literal) = (STYLES.get_header(), STYLES.get_literal());
    let mut page = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        let _ = writeln!(page, "\n{header}{title}{header:#}");
        for name in names {
            let about = commands.find_subcommand(name).and_then(clap::Command::get_about).cloned().unwrap_or_default();
            let _ = writeln!(page, "  {literal}{name:<12}{literal:#} {about}");
        }
    }
    let _ = write!(page, "\n{header}Options:{header:#}\n{{options}}{{after-help}}");
    page.into()
}

/// What stands under it.
pub(super) fn notes() -> String {
    format!(
        "\
Examples:
  contactctl submit 'reindex the catalogue'
  contactctl top
  contactctl doctor --server 10.0.0.5:50052
`contactctl COMMAND --help` has more of them.

{EXIT_CODES}

On a terminal, tables are cut to its width and times are relative; in a pipe they are whole, and times are UTC.
With --json, each line of output is one object, and an error is one on standard error: {{\"error\":\"...\"}}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_stands_once_in_the_overview_which_fits_80_columns() {
        let listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let command = super::super::Args::command();
        let mut there: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        let mut once = listed.clone();
        there.sort_unstable();
        once.sort_unstable();
        assert_eq!(once, there);
        for line in overview().to_string().lines() {
            assert!(console::measure_text_width(line) <= 80, "{line}");
        }
    }
}
