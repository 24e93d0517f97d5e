//! What to do with a server that was just started, as commands for the machine that it runs on.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use crate::target;
use crate::terminal::quote;

/// How a server lets others in.
pub(super) struct FirstSteps {
    /// It has an authority of its own, and invites clients.
    pub(super) invites: bool,
    pub(super) has_tls: bool,
    /// Clients show certificates.
    pub(super) takes_certificates: bool,
    /// Callers say who they are.
    pub(super) asks_who: bool,
    pub(super) data: PathBuf,
}

/// Where its ports are.
pub(super) struct At<'a> {
    pub(super) listen: &'a str,
    pub(super) control: &'a str,
    pub(super) http: Option<&'a str>,
}

/// What `contactctl` and `contact-client` take if nothing else is said.
const CONTROL: &str = "127.0.0.1:50052";
const LISTEN: &str = "127.0.0.1:50051";
const DATA: &str = "contact-data";

impl FirstSteps {
    /// A line for each: a worker, a task, and the page.
    pub(super) fn text(&self, at: &At<'_>) -> String {
        let mut lines = format!(
            "a worker:  {}\na task:    {}\n",
            self.worker(at),
            self.operator(at, "submit --to workers 'hello, world'")
        );
        if let Some(http) = at.http {
            let page = match self.asks_who {
                true => self.operator(at, "login"),
                false if self.has_tls && !target::is_here(http) => format!("https://{}", here(http)),
                false => format!("http://{}", here(http)),
            };
            lines += &format!("the page:  {page}\n");
        }
        lines
    }

    fn worker(&self, at: &At<'_>) -> String {
        if self.invites {
            return format!("{}   # prints its command", self.operator(at, "invite --group workers"));
        }
        let (mut before, mut flags) = (String::new(), String::new());
        let listen = here(at.listen);
        if listen != LISTEN {
            flags += &format!(" --server {listen}");
        }
        if self.has_tls {
            // Only who has set it up knows which authority the certificate is from, and which name it is for.
            flags = format!(" --server NAME:{} --tls-ca FILE", listen.rsplit(':').next().unwrap_or_default());
        }
        if self.takes_certificates {
            flags += " --tls-cert FILE --tls-key FILE";
        } else if self.asks_who {
            let create = self.operator(at, "token create worker --role agent --group workers");
            before = format!("(umask 077; {create} > worker.token) && ");
            flags += " --token-file worker.token";
        }
        format!("{before}contact-client{flags} --group workers --exec 'tr a-z A-Z'")
    }

    fn operator(&self, at: &At<'_>, command: &str) -> String {
        let control = here(at.control);
        let server = if control == CONTROL { String::new() } else { format!(" --server {control}") };
        // It looks there by itself.
        let token = match self.asks_who && self.data != Path::new(DATA) {
            true => format!(" --token-file {}", quote(&self.data.join("operator.token").to_string_lossy())),
            false => String::new(),
        };
        format!("contactctl {command}{server}{token}")
    }
}

/// An address as it is reached from this machine: one that stands for all of them is not reached everywhere.
fn here(address: &str) -> Cow<'_, str> {
    match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}").into(),
        Some(("[::]", port)) => format!("[::1]:{port}").into(),
        _ => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: At<'_> = At { listen: LISTEN, control: CONTROL, http: Some("127.0.0.1:50080") };

    fn steps() -> FirstSteps {
        FirstSteps { invites: false, has_tls: false, takes_certificates: false, asks_who: false, data: DATA.into() }
    }

    #[test]
    fn where_all_is_as_it_is_by_itself_the_commands_need_no_flags() {
        let text = "a worker:  contact-client --group workers --exec 'tr a-z A-Z'\n\
                    a task:    contactctl submit --to workers 'hello, world'\n\
                    the page:  http://127.0.0.1:50080\n";
        assert_eq!(steps().text(&AT), text);
        assert_eq!(steps().text(&At { http: None, ..AT }).lines().count(), 2);
    }

    #[test]
    fn with_tls_of_others_what_only_they_know_is_left_open() {
        let by_token = FirstSteps { has_tls: true, asks_who: true, ..steps() };
        let (worker, page) = (by_token.worker(&AT), by_token.text(&AT));
        assert!(worker.contains("--server NAME:50051 --tls-ca FILE --token-file worker.token "), "{worker}");
        assert!(page.ends_with("the page:  contactctl login\n"), "{page}");
        let by_certificate = FirstSteps { takes_certificates: true, ..by_token };
        let flags = "contact-client --server NAME:50051 --tls-ca FILE --tls-cert FILE --tls-key FILE --group";
        assert!(by_certificate.worker(&AT).starts_with(flags), "{}", by_certificate.worker(&AT));
    }
}
