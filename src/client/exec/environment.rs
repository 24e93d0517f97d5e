//! Which variables of this process's environment a command gets.

use std::fmt;
use std::process::Command;
use std::str::FromStr;

/// What each command gets of this process's environment, besides the variables of the locale, which begin with `LC_`: where programs
/// and files are, who runs them, language and time zone. None of these holds a secret.
pub(super) const PASSED_ON: [&str; 9] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"];
/// The categories of the locale.
const LOCALE: &str = "LC_";
/// Settings of Contact's own programs, and what a client shows a server to be let in. No command gets them, whoever asks for it.
const OURS: &str = "CONTACT_";

/// The name of a variable of the environment that a command may be given: any but those that begin with `CONTACT_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable(String);

/// Why a command cannot be given a variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotForCommands {
    /// It is one of Contact's own.
    #[error(
        "a command never gets {0}: variables of Contact may be secrets; put what the command needs into a variable of another name"
    )]
    Ours(String),
    /// It has a value with it, or is empty.
    #[error(
        "{0:?} is no name of a variable; name one that is set where the client is started, such as LD_LIBRARY_PATH"
    )]
    NoName(String),
}

impl FromStr for Variable {
    type Err = NotForCommands;

    fn from_str(name: &str) -> Result<Variable, NotForCommands> {
        if is_ours(name) {
            return Err(NotForCommands::Ours(name.to_owned()));
        }
        let is_name = !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control());
        if is_name { Ok(Variable(name.to_owned())) } else { Err(NotForCommands::NoName(name.to_owned())) }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Variable {
    /// Whether it is set in the environment of this process.
    pub fn is_set(&self) -> bool {
        std::env::var_os(&self.0).is_some()
    }
}

/// The variables that are passed on besides [`PASSED_ON`].
#[derive(Debug, Clone, Default)]
pub(super) struct Environment(Vec<Variable>);

impl Environment {
    pub(super) fn add(&mut self, variable: Variable) {
        self.0.push(variable);
    }

    /// Leaves the command those variables of this process that it may have.
    pub(super) fn leave(&self, command: &mut Command) {
        command.env_clear();
        command.envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| self.has(name))));
    }

    fn has(&self, name: &str) -> bool {
        let named = || self.0.iter().any(|variable| variable.0 == name);
        !is_ours(name) && (PASSED_ON.contains(&name) || name.starts_with(LOCALE) || named())
    }
}

/// The variable that has the value of a header: `content-type` is in `CONTACT_HEADER_CONTENT_TYPE`.
pub(super) fn of_header(key: &str) -> String {
    format!("CONTACT_HEADER_{}", key.to_ascii_uppercase().replace(['-', '.'], "_"))
}

fn is_ours(name: &str) -> bool {
    name.get(..OURS.len()).is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_contacts_own_and_what_is_no_name_is_refused_with_what_to_do() {
        for ours in ["CONTACT_TOKEN", "CONTACT_", "contact_token", "CONTACT_TASK_ID"] {
            let said = ours.parse::<Variable>().unwrap_err();
            assert_eq!(said, NotForCommands::Ours(ours.to_owned()));
            assert!(said.to_string().contains("variable of another name"), "{said}");
        }
        for none in ["", "A=b", "A B", "A\n"] {
            assert_eq!(none.parse::<Variable>(), Err(NotForCommands::NoName(none.to_owned())));
        }
        for name in ["AWS_REGION", "CONTACTS", "工", "http_proxy"] {
            assert_eq!(name.parse::<Variable>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_header_is_in_a_variable_of_a_name_that_a_shell_can_read() {
        for (key, name) in [("content-type", "CONTENT_TYPE"), ("x.trace_id-1", "X_TRACE_ID_1"), ("7", "7")] {
            assert_eq!(of_header(key), format!("CONTACT_HEADER_{name}"));
        }
    }

    #[test]
    fn a_command_may_have_what_is_listed_and_what_is_named_and_nothing_else() {
        let mut environment = Environment::default();
        environment.add("AWS_REGION".parse().unwrap());
        for passed in PASSED_ON.into_iter().chain(["LC_ALL", "LC_CTYPE", "AWS_REGION"]) {
            assert!(environment.has(passed), "{passed}");
        }
        for kept in ["CONTACT_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_REGION_", "LD_PRELOAD", "http_proxy", "path", ""] {
            assert!(!environment.has(kept), "{kept}");
        }
    }
}
