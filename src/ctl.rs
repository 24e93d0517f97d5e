//! The operator's commands: submit tasks, list what became of them, take care of groups.
//!
//! `args` says what can be asked for, `link` asks the server for it, `out` prints it. Between them each kind of command
//! has its file: `submit` (`lines` become a `batch`, and `tally` counts what came of it), `list` and `manage`; and `bench`,
//! which measures a server.

mod args;
mod backup;
mod batch;
mod bench;
mod cancel;
mod data;
mod dial;
mod doctor;
mod error;
mod finding;
mod follow;
mod follow_up;
mod help;
mod identity;
mod interrupt;
mod lines;
mod link;
mod list;
mod manage;
mod moment;
mod out;
mod rows;
mod run;
mod schedule;
mod server;
mod servers;
mod submit;
mod table;
mod tally;
mod token;
mod top;
mod words;

pub use args::Args;
pub use error::Error;

use std::io::{self, Write as _};

use args::{Clock, Command, Dial, Group, Token};
use clap::CommandFactory as _;
use link::{Link, To};
use out::Out;

use crate::front::Tls;
use crate::manual;

/// Runs one command to its end.
pub fn run(args: Args) -> Result<(), Error> {
    let out = Out::stdout(args.json);
    let tls = Tls::of(args.tls_ca, args.tls_cert, args.tls_key).map_err(Error::Usage)?;
    let token = token::mine(args.token_file.as_deref(), &args.server, &out)?;
    let to = To { address: &args.server, tls: tls.as_ref(), token: token.as_ref() };
    let link = || Link::connect(to);
    match args.command {
        Command::Submit(submit) => submit::run(submit, to, out),
        Command::Bench(bench) => bench::run(bench, to, out),
        Command::Tasks(tasks) => list::tasks(&link()?, &tasks, out),
        Command::Results(results) => list::results(&link()?, &results, out),
        Command::Statuses(statuses) => list::statuses(&link()?, &statuses, out),
        Command::Dead(dead) => list::dead(&link()?, &dead, out),
        Command::Clients(clients) => manage::clients(&link()?, &clients, out),
        Command::Groups => manage::groups(&link()?, out),
        Command::Servers => servers::list(&link()?, out),
        Command::Server => server::run(&link()?, out),
        Command::Health => server::health(&link()?, out),
        Command::Doctor(doctor) => doctor::run(&doctor, to, out),
        Command::Completions { shell } => Ok(io::stdout().write_all(&manual::completions(Args::command(), shell))?),
        Command::Man { dir: None } => Ok(io::stdout().write_all(&manual::page(Args::command())?)?),
        Command::Man { dir: Some(dir) } => manual::pages(Args::command(), &dir)
            .map_err(|source| Error::File { name: dir.display().to_string(), source }),
        Command::Top(top) => top::run(&top, to, out),
        Command::Task(task) if task.follow => follow::follow(&link()?, task.id, task.to.as_deref(), out),
        Command::Task(task) => manage::describe(&link()?, &task, out),
        Command::Run(run) => run::run(&link()?, run, out),
        Command::Schedule(verb) => schedule::run(link, verb, out),
        Command::Apply(apply) => schedule::apply(link, &apply, out),
        Command::Cancel(cancel) => cancel::run(&link()?, &cancel, out),
        Command::Retry { ids, group } => manage::retry(&link()?, &ids, &group.unwrap_or_default(), out),
        Command::Pause { group } => manage::pause(&link()?, group, true, out),
        Command::Resume { group } => manage::pause(&link()?, group, false, out),
        Command::Drain { client, lasts, note } => manage::drain(&link()?, client, lasts, note, out),
        Command::Undrain { client } => manage::undrain(&link()?, client, out),
        Command::Clock(Clock::Accept) => manage::accept_clock(&link()?, out),
        Command::Invite(invite) => identity::invite(&link()?, invite, out),
        Command::Cert(cert) => identity::issue(&link()?, cert, out),
        Command::Identity(which) => identity::identity(&link()?, which, out),
        Command::Backup { file } => backup::run(&link()?, file, out),
        Command::Group(Group::Retry { group, policy, default: _ }) => {
            manage::set_retry(&link()?, group, policy.unwrap_or_default(), out)
        }
        Command::Group(Group::Set { group, limits }) => manage::set_limits(&link()?, group, &limits, out),
        Command::Group(Group::Rm { group }) => manage::remove(&link()?, group, out),
        Command::Dial(Dial::Add(new)) => dial::add(&link()?, new, out),
        Command::Dial(Dial::List) => dial::list(&link()?, out),
        Command::Dial(Dial::Rm { address }) => dial::remove(&link()?, address, out),
        Command::Token(Token::Create(new)) => token::create(&link()?, new, out),
        Command::Token(Token::List) => token::list(&link()?, out),
        Command::Token(Token::Revoke { name }) => token::revoke(&link()?, name, out),
        Command::Login { url } => token::login(&link()?, &args.server, url, out),
    }
}
