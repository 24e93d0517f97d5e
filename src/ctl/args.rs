//! What can be asked for on the command line. No option reaches further than here unchecked.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use protobuf::Enum as _;

use super::bench::Bench;
use super::help;
use super::schedule::{Apply, Schedule};
use super::words::quote;
use crate::attachment::Headers;
use crate::group_limits::{OnDead, PerSecond};
use crate::labels::{Labels, Selector};
use crate::manual::Shell;
use crate::retry::RetryPolicy;
use crate::run::Share;
use crate::task::{Name, NameOf, Time};
use crate::wire::control as pb;

/// Submits tasks to a Contact server, shows what became of them, and takes care of groups.
#[derive(Debug, Parser)]
#[command(
    name = "contactctl",
    version,
    styles = help::STYLES,
    help_template = help::overview(),
    after_help = help::notes(),
    disable_help_subcommand = true
)]
pub struct Args {
    /// The server's control address, host:port.
    #[arg(
        long,
        global = true,
        display_order = 100,
        env = "CONTACT_CONTROL",
        default_value = "127.0.0.1:50052",
        value_name = "ADDR",
        value_parser = address
    )]
    pub(super) server: String,
    /// Speak TLS with the server, whose certificate comes from an authority in this file, in PEM; `system`: from one that this
    /// machine trusts. A control port on the server's own machine needs none.
    #[arg(long, global = true, display_order = 101, env = "CONTACT_TLS_CA", value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,
    /// Show this certificate of an operator, in PEM.
    #[arg(long, global = true, display_order = 101, env = "CONTACT_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The key of it.
    #[arg(long, global = true, display_order = 101, env = "CONTACT_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// Say who you are with the token in this file. Without it, contactctl uses operator.token in the data folder of a server on this
    /// machine: in ./contact-data, or where CONTACT_DATA says.
    #[arg(long, global = true, display_order = 101, env = "CONTACT_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Print one JSON object a line; what went wrong, too, on standard error.
    #[arg(long, global = true, display_order = 102)]
    pub json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Top(Top),
    /// Show the groups, and how far each has come.
    #[command(after_help = "\
Examples:
  contactctl groups
  contactctl groups --json | jq -r 'select(.lag > 1000).group'")]
    Groups,
    /// Show the clients that are connected now.
    #[command(after_help = "\
Examples:
  contactctl clients
  contactctl clients --offline 2d
  contactctl clients --json | jq -r 'select(.group == \"workers\").peer'")]
    Clients(Clients),
    Tasks(Tasks),
    Task(Task),
    Results(Results),
    Statuses(Statuses),
    Dead(Dead),
    /// Show how the server is set, and how it is.
    #[command(after_help = "\
Examples:
  contactctl server
  contactctl server --json | jq .store_bytes")]
    Server,
    /// Show the servers of a cluster, and the log that they share.
    ///
    /// A server that is alone is shown alone. As JSON it is one object.
    #[command(after_help = "\
Examples:
  contactctl servers
  contactctl servers --json | jq -r '.servers[] | select(.role == \"leading\").name'")]
    Servers,
    /// Ask whether the server takes tasks and gives them out.
    ///
    /// Asks its health service and nothing else, for the health checks of containers and scripts: cheap, however much there is
    /// in the store. Exits with 0 if it serves.
    #[command(after_help = "\
Examples:
  contactctl health
  until contactctl health; do sleep 1; done")]
    Health,
    Doctor(Doctor),
    Submit(Submit),
    Run(Run),
    /// Have tasks made at certain times (schedule set, list, run, rm).
    #[command(
        subcommand,
        after_help = "\
Examples:
  contactctl schedule set nightly --cron '0 3 * * *' --zone Europe/Berlin --to workers 'reindex the catalogue'
  contactctl schedule set ping --every 10m --ttl 5m ping
  contactctl schedule list
  contactctl schedule run nightly"
    )]
    Schedule(Schedule),
    Apply(Apply),
    Cancel(Cancel),
    /// Give settled or dead tasks to their groups again.
    ///
    /// With fresh attempts.
    #[command(after_help = "\
Examples:
  contactctl retry 17 18
  contactctl retry 17 --group workers")]
    Retry {
        /// The tasks' ids.
        #[arg(value_name = "ID", value_parser = id(), required = true)]
        ids: Vec<u64>,
        /// To this group, even if it said DONE. Without it: to each group that settled the task without DONE.
        #[arg(long, value_name = "GROUP", value_parser = group)]
        group: Option<String>,
    },
    /// Stop giving tasks to a group.
    ///
    /// What its clients hold they keep, and may still settle. A group may be paused before its first client comes.
    #[command(after_help = "\
Example:
  contactctl pause workers")]
    Pause {
        /// The group's name.
        #[arg(value_parser = group)]
        group: String,
    },
    /// Give tasks to a paused group again.
    #[command(after_help = "\
Example:
  contactctl resume workers")]
    Resume {
        /// The group's name.
        #[arg(value_parser = group)]
        group: String,
    },
    /// Give a client no more tasks; what it has it finishes.
    ///
    /// It stays connected, and is shown as drained with the note. One with an id stays so when it comes back, and when the server is
    /// started again, until --for is over or it is undrained. Of its group the other clients get the tasks. A client that is told to
    /// stop does the same by itself.
    ///
    /// An id has one stream: the last that came. By an address, all streams from there are drained, of clients without an id for as
    /// long as these streams last.
    #[command(after_help = "\
Examples:
  contactctl drain worker-7 --note 'disk is replaced'
  contactctl drain worker-7 --for 1h
  contactctl drain 10.0.0.7:51234")]
    Drain {
        /// The client: its id, or its address, as `contactctl clients` shows them.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        client: String,
        /// For how long. Without it: until it is undrained.
        #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
        lasts: Option<Duration>,
        /// Why, for those who see it drained: up to 256 bytes.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Give tasks to a drained client again.
    #[command(after_help = "\
Example:
  contactctl undrain worker-7")]
    Undrain {
        /// The client, as it was drained.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        client: String,
    },
    /// Set the retry policy of a group, or forget it (group retry, rm).
    #[command(
        subcommand,
        after_help = "\
Examples:
  contactctl group retry workers max=5,first=10s
  contactctl group rm workers"
    )]
    Group(Group),
    /// Have the server dial workers that listen (contact-client --serve).
    #[command(
        subcommand,
        after_help = "\
Examples:
  contactctl dial add 10.0.0.7:50061 --group thumbnails
  contactctl dial list
  contactctl dial rm 10.0.0.7:50061"
    )]
    Dial(Dial),
    /// Make and revoke tokens, by which callers say who they are.
    #[command(
        subcommand,
        after_help = "\
Examples:
  (umask 077; contactctl token create web-1 --role agent --group workers > web-1.token)
  contactctl token create ci --role submit --to workers --rate 100 --ttl 90d
  contactctl token create prometheus --role read
  contactctl token list
  contactctl token revoke ci"
    )]
    Token(Token),
    /// Print a link that opens the page, once and within a minute.
    ///
    /// The browser is then let in for twelve hours, with your role. Where callers need not say who they are, it is just the address.
    #[command(after_help = "\
Examples:
  contactctl login
  contactctl login --url https://contact.example")]
    Login {
        /// Where a browser reaches the page, if that is not the server's --http address.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    Invite(Invite),
    /// Who is let in, for what (identity list, grant, limits, revoke).
    #[command(
        subcommand,
        after_help = "\
Examples:
  contactctl identity list
  contactctl identity grant web-1 --group workers
  contactctl identity limits web-1 streams=10
  contactctl identity revoke web-1"
    )]
    Identity(Identity),
    /// Make a key and a certificate for it (cert issue).
    #[command(
        subcommand,
        after_help = "\
Examples:
  contactctl cert issue web-1
  contactctl cert issue ann --operator --ttl 90d"
    )]
    Cert(Cert),
    /// Say that the server's clock is right (clock accept).
    #[command(
        subcommand,
        after_help = "\
Example:
  contactctl clock accept"
    )]
    Clock(Clock),
    /// Copy the store into a file, while the server works.
    ///
    /// The file is on the server's machine. The copy has all that was answered before it began. It is made at 64 MiB a second at most, so that others hardly notice, and
    /// is gone through before it gets its name: until then it is called FILE.partial. Ctrl-C stops it and removes that. How to go
    /// back to a copy stands in docs/running.md: put it into an empty folder as contact.db, and start a server there.
    #[command(after_help = "\
Examples:
  contactctl backup /var/backups/contact-$(date +%F).db
  contactctl backup /backups/contact.db --server 10.0.0.5:50052    # a file on 10.0.0.5")]
    Backup {
        /// The file, by an absolute path on the machine of the server, in a folder that the server's user may write into. One that is
        /// there is not overwritten.
        #[arg(value_name = "FILE")]
        file: String,
    },
    Bench(Bench),
    /// Print the script that makes a shell complete command lines.
    #[command(after_help = "\
Examples:
  contactctl completions bash > ~/.local/share/bash-completion/completions/contactctl
  contactctl completions zsh > \"${fpath[1]}/_contactctl\"
  contactctl completions fish > ~/.config/fish/completions/contactctl.fish")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page, or write one for each command.
    #[command(after_help = "\
Examples:
  contactctl man | man -l -
  contactctl man --dir ~/.local/share/man/man1")]
    Man {
        /// Write the page of contactctl and of each of its commands into this folder.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Print the line by which others join the fleet.
///
/// For a server that was started with --public. The line has the server's address, its authority, and a secret: who has it can join.
/// The client makes its own key, and renews its certificate by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  contactctl invite --group workers                for one client, within an hour
  contactctl invite --group workers --uses 50 --ttl 1d
  contactctl invite --label role=web --label env=production")]
pub(super) struct Invite {
    /// The group whose work they take part in. Without it: none, each is a client with an id of its own.
    #[arg(long, value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// What who joins is, whatever it says, as in role=web. May be given several times. Nobody else is believed who says this key of itself.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) label: Vec<String>,
    /// For how long it is good.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(super) ttl: Duration,
    /// For how many.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) uses: u32,
    #[command(flatten)]
    pub(super) limits: Limits,
}

/// What one identity may have.
#[derive(Debug, ClapArgs)]
pub(super) struct Limits {
    /// What each identity may have, instead of what the server is set to: `connections`, `streams` (getTask), `window` (of a stream), `bytes` (given
    /// and not settled), `results`, `statuses` and `submits` a second. The value is a number, or `none` for no limit. May be given several times.
    #[arg(long = "limit", value_name = "KEY=VALUE", value_parser = limit)]
    limits: Vec<(String, u64)>,
}

impl Limits {
    pub(super) fn of(self) -> HashMap<String, u64> {
        self.limits.into_iter().collect()
    }
}

/// 0 is no limit.
fn limit(text: &str) -> Result<(String, u64), String> {
    match change_of_limit(text)? {
        (key, Some(most)) => Ok((key, most)),
        (_, None) => Err("must be a number from 1, or none".into()),
    }
}

/// The same; `None`: as the server is set.
fn change_of_limit(text: &str) -> Result<(String, Option<u64>), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE, such as streams=10")?;
    let most = match value {
        "none" => Some(0),
        "default" => None,
        _ => Some(value.parse().ok().filter(|most| *most > 0).ok_or("must be a number from 1, none or default")?),
    };
    Ok((key.to_owned(), most))
}

#[derive(Debug, Subcommand)]
pub(super) enum Identity {
    /// Show who was given a certificate, until when it is valid, and whether it was revoked.
    #[command(after_help = "\
Example:
  contactctl identity list")]
    List,
    /// Show what one may do and have, and what it has now; or change what it may have.
    ///
    /// For those with certificates and with tokens. What is changed counts at once, and after a restart.
    #[command(after_help = "\
Examples:
  contactctl identity limits web-1
  contactctl identity limits web-1 streams=10 bytes=100000000
  contactctl identity limits web-1 streams=none bytes=default")]
    Limits {
        /// Its name.
        name: String,
        /// What it may have: `connections`, `streams` (getTask), `window` (of a stream), `bytes` (given and not settled), `results`, `statuses` and
        /// `submits` a second. The value is a number, `none` for no limit, or `default` for what the server is set to.
        #[arg(value_name = "KEY=VALUE", value_parser = change_of_limit)]
        limits: Vec<(String, Option<u64>)>,
    },
    /// Let one with a certificate take part in the work of a group, or no more.
    ///
    /// It counts at once: its connections end, and come again. What it may name without that is its own name.
    #[command(after_help = "\
Examples:
  contactctl identity grant web-1 --group workers
  contactctl identity grant web-1 --remove workers")]
    Grant {
        /// Its name.
        name: String,
        /// A group that it may name from now on. The first is its own if it names none. May be given several times.
        #[arg(long, value_name = "GROUP", value_parser = group, required_unless_present = "remove")]
        group: Vec<String>,
        /// A group that it may not name any more. May be given several times.
        #[arg(long, value_name = "GROUP", value_parser = group)]
        remove: Vec<String>,
    },
    /// Let one in no more, and end its connections.
    #[command(after_help = "\
Example:
  contactctl identity revoke web-1")]
    Revoke {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make a key here, and have the server issue a certificate for it, for clients that do not join by themselves.
    ///
    /// Writes NAME.key, NAME.pem and ca.pem, for you alone, and prints the flags that name them.
    #[command(after_help = "\
Examples:
  contactctl cert issue web-1
  contactctl cert issue web-2 --group workers
  contactctl cert issue ann --operator --ttl 90d")]
    Issue {
        /// Whose it is: the id of a client, or the name of an operator.
        name: String,
        /// It is for an operator, who submits tasks and sees everything.
        #[arg(long)]
        operator: bool,
        /// A group that the client may name, beside its own name. May be given several times.
        #[arg(long, value_name = "GROUP", value_parser = group, conflicts_with = "operator")]
        group: Vec<String>,
        #[command(flatten)]
        limits: Limits,
        /// How long it is valid.
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = humantime::parse_duration)]
        ttl: Duration,
        /// Where the files go.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Clock {
    /// Say that the server's clock is right, though it stepped: what is old by it is removed.
    ///
    /// A step of more than a minute counts only when it has held for an hour, or when this was said.
    #[command(after_help = "\
Example:
  contactctl clock accept")]
    Accept,
}

#[derive(Debug, Subcommand)]
pub(super) enum Dial {
    Add(NewDial),
    /// Show the workers that are dialled, and why a connection fails.
    #[command(after_help = "\
Examples:
  contactctl dial list
  contactctl dial list --json | jq -r 'select(.connected | not) | .address + \": \" + .trouble'")]
    List,
    /// Dial a worker no more, and end its stream.
    ///
    /// What it has goes to others of its group.
    #[command(after_help = "\
Example:
  contactctl dial rm 10.0.0.7:50061")]
    Rm {
        /// Its address, as it was added.
        #[arg(value_name = "ADDR")]
        address: String,
    },
}

/// Dial a worker that listens, from now on and after restarts.
///
/// The server opens a stream to it, gives it tasks, and hears what came of them. When the connection is lost, the server connects again:
/// the first time within a second, later at least every 30 seconds. Adding an address again changes its group and id. At most 1,000 are
/// dialled.
///
/// An address of another machine is dialled by TLS (the server's --dial-tls-ca), unless the server runs with --insecure.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl dial add 10.0.0.7:50061 --group thumbnails
  contactctl dial add worker-7.workers.svc:50061 --group thumbnails --client worker-7")]
pub(super) struct NewDial {
    /// Where it listens, host:port.
    #[arg(value_name = "ADDR", value_parser = address)]
    pub(super) address: String,
    /// The group whose tasks it shares. Without it: the one that the worker says, or else it is a group of its own.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) group: Option<String>,
    /// Its id. Without it: the one that the worker says, or else its address.
    #[arg(long, value_name = "NAME", value_parser = group)]
    pub(super) client: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    Create(NewToken),
    /// Show which tokens there are, and what they are for.
    #[command(after_help = "\
Example:
  contactctl token list")]
    List,
    /// Have a token count no more.
    ///
    /// Calls with it are refused from then on, and streams that are open with it end at once.
    #[command(after_help = "\
Example:
  contactctl token revoke ci")]
    Revoke {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Make a token, and print it: it is shown this once.
///
/// An agent takes tasks; its client ids are NAME and those that begin with NAME/. `submit` submits tasks, `read` sees everything and
/// changes nothing, `operator` does everything.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  (umask 077; contactctl token create web-1 --role agent --group workers > web-1.token)
  contactctl token create ci --role submit --to workers --rate 100 --ttl 90d")]
pub(super) struct NewToken {
    /// Whose it is.
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// What its owner may do.
    #[arg(long, value_name = "ROLE", value_parser = ["agent", "submit", "read", "operator"])]
    pub(super) role: String,
    /// A group that the agent may name; the first is its own if it names none. May be given several times.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) group: Vec<String>,
    /// What the agent is, whatever it says, as in role=web. May be given several times. Nobody else is believed who says this key of itself.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) label: Vec<String>,
    /// A group that tasks may be for; without it, any group, and everyone. May be given several times.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) to: Vec<String>,
    /// Most tasks a second that may be submitted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    #[command(flatten)]
    pub(super) limits: Limits,
    /// How long it counts; without it, until it is revoked.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) ttl: Option<Duration>,
}

/// Which limits to set. The zero that stands for none is that of the wire.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = true)]
pub(super) struct GroupLimits {
    /// Most tasks that are with its clients, all together; none: as many as they want.
    #[arg(long, value_name = "N", value_parser = count_or_none)]
    pub(super) max_in_flight: Option<u32>,
    /// Most tasks that its clients are given in a second, all together, from 0.001 on; none: any. A tenth of that may go out at once, but
    /// at least one. What is given out again counts, too.
    #[arg(long, value_name = "R", value_parser = rate_or_none)]
    pub(super) max_begun_per_second: Option<f64>,
    /// Most tasks of one lane (submit --lane) that are under way. One keeps their order.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) lane_max: Option<u32>,
    /// What becomes of a lane when a task of it is given up: the next goes out, or the lane waits until that is given out again or
    /// dropped (retry, dead).
    #[arg(long, value_enum)]
    pub(super) lane_on_dead: Option<OnDead>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// Say how the tasks of a group are tried again.
    ///
    /// A task that says so itself (submit --retry, --max-attempts) goes by that; what neither says is as the server is set. It
    /// counts from now on: a task that waits already waits no longer and no shorter. It may be said before the first client comes.
    #[command(after_help = "\
Examples:
  contactctl group retry workers max=5,first=10s
  contactctl group retry workers first=1m,factor=3,cap=2h
  contactctl group retry workers --default")]
    Retry {
        /// The group's name.
        #[arg(value_parser = group)]
        group: String,
        /// As in max=5,first=10s,factor=2,cap=10m,jitter=0.1: most attempts, the first wait, what each further one is multiplied
        /// with, the longest, and by which part they vary. Of waits, what is not named is 1s, 2, 10m and 0.1; max alone leaves
        /// them as the server is set.
        #[arg(value_name = "POLICY", value_parser = retry, required_unless_present = "default")]
        policy: Option<String>,
        /// As the server is set again.
        #[arg(long, conflicts_with = "policy")]
        default: bool,
    },
    /// Limit how many tasks of a group are under way at a time.
    ///
    /// It counts at once, over all clients of the group; what is with a client stays there. What is not named stays as it was. It may
    /// be said before the first client comes.
    #[command(after_help = "\
Examples:
  contactctl group set workers --max-in-flight 10 --max-begun-per-second 2.5
  contactctl group set workers --max-in-flight none
  contactctl group set workers --lane-max 2 --lane-on-dead hold")]
    Set {
        /// The group's name.
        #[arg(value_parser = group)]
        group: String,
        #[command(flatten)]
        limits: GroupLimits,
    },
    /// Forget a group, and what it still owed.
    #[command(after_help = "\
Example:
  contactctl group rm workers")]
    Rm {
        /// The group's name.
        #[arg(value_parser = group)]
        group: String,
    },
}

/// Show one task: where it stands, and all that came of it.
///
/// Where it stands with each group, why it is not running if it is not, and every outcome that was told. With many groups, how many
/// there are of each state, and the first of them by name.
///
/// With --json, one object, which has the task's data in base64. With --all, one for each part of the groups; "next" is in all but
/// the last.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl task 17
  contactctl task 17 --to workers
  contactctl task 17 --follow
  contactctl task 17 --data-out cat.png
  contactctl task 17 --result 23 --data-out - | tar t
  contactctl task 17 --all --json | jq -r '.groups[] | select(.state == \"dead\").group'")]
pub(super) struct Task {
    /// The task's id.
    #[arg(value_parser = id())]
    pub(super) id: u64,
    /// Only this group.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) to: Option<String>,
    /// Most groups.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "all")]
    pub(super) limit: u32,
    /// All groups, however many there are.
    #[arg(long)]
    pub(super) all: bool,
    /// Print what it prints while it runs, from the last 64 KiB on, until it is settled. With more than 16 groups one must be named.
    #[arg(long, short, conflicts_with_all = ["all", "limit"])]
    pub(super) follow: bool,
    /// Write the task's data to this file, which must not be there yet, or with - to standard output, and show nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "limit", "all"])]
    pub(super) data_out: Option<PathBuf>,
    /// With --data-out: not the task's data, but that of its result with this SEQ.
    #[arg(long, value_name = "SEQ", value_parser = id(), requires = "data_out")]
    pub(super) result: Option<u64>,
}

/// Take tasks back: named ones, or all that fit a description.
///
/// No group that has not settled them gets them any more. Their keys are free again. Doing it twice does no harm.
///
/// A client that is at work on one is told to end it: contact-client ends its command at once, with all that it started. It says how
/// many were told, and how many clients cannot be told: those that did not ask to hear of it (contact-revoke), and those whose
/// connection is lost, which are told when they come back.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl cancel 17 18 19
  contactctl cancel 17 --wait --timeout 30s
  contactctl cancel --to workers --older-than 2d
  contactctl cancel --text 'reindex' --state waiting --dry-run")]
pub(super) struct Cancel {
    /// The tasks' ids.
    #[arg(value_name = "ID", value_parser = id(), conflicts_with_all = WHICH)]
    pub(super) ids: Vec<u64>,
    /// All that are addressed to this group.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) to: Option<String>,
    /// Of these, only what is in this state; otherwise what is in either.
    #[arg(long, value_enum)]
    pub(super) state: Option<Open>,
    /// Only what was accepted so long ago.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) older_than: Option<Duration>,
    /// Only what has this in its text, letter for letter.
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Option<String>,
    /// Do not ask, at a terminal, before more than ten tasks that fit a description are taken back.
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Say which these are, and take none back.
    #[arg(long, conflicts_with = "wait")]
    pub(super) dry_run: bool,
    /// Wait until the clients that were at work on them have ended.
    #[arg(long)]
    pub(super) wait: bool,
    /// With --wait, how long: the exit code is then 124. Without it, until all have.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "wait")]
    pub(super) timeout: Option<Duration>,
}

/// What describes the tasks that `cancel` takes back.
const WHICH: [&str; 4] = ["to", "state", "older_than", "text"];

/// How far a task has come that is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Open {
    /// To be delivered, or delivered again.
    Waiting,
    /// With a client.
    InFlight,
}

/// Submit tasks: each argument is one, or each line of a file.
///
/// Lines end with LF or CRLF; the last one may lack its end. Empty lines are skipped, and counted at the end; a byte
/// order mark at the beginning is skipped too. A line that is not UTF-8, or that the server refuses, is named on standard error
/// (with --json on standard output, {"line":17,"error":"..."}), the others go on, and the exit code is 1.
///
/// A task that is reported as accepted is on disk. With --json, each batch is reported as soon as it is:
/// {"first_id":1,"count":100}, and "ids" where they do not follow one another; and the last line,
/// {"done":true,"accepted":100,"failed":0}, is there only if the whole input was gone through.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl submit 'reindex the catalogue' 'send the letters'
  contactctl submit --to workers --ttl 1h --file tasks.txt
  contactctl submit --to london --to paris 'read the meters'
  contactctl submit --select 'os=linux,role in (web,api),!canary' uptime
  contactctl submit --to workers --whole --file report.json
  contactctl submit --to workers --header content-type=image/png --data-file cat.png 'make it smaller'
  contactctl submit --to workers --wait --timeout 1m 'how far is it?'
  contactctl submit --to db --replace config --quiet 10s --max-wait 1m --whole --file config.json
  tail -f commands.log | contactctl submit -
  contactctl submit --key invoice-2026-04 'print the invoices of April'")]
pub(super) struct Submit {
    /// The tasks. A single - stands for standard input, a task a line.
    #[arg(value_name = "TEXT", required_unless_present_any = ["file", "data_file"])]
    pub(super) texts: Vec<String>,
    /// Submit each line of this file.
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    pub(super) file: Option<PathBuf>,
    /// Submit all of the file, or of standard input, as one task, byte for byte.
    #[arg(long)]
    pub(super) whole: bool,
    #[command(flatten)]
    pub(super) task: TaskOptions,
    /// Idempotency key, for a single task: if it was accepted before with this key, that is said, and it is not submitted again.
    /// Another task with this key is refused, until the first one is cancelled.
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(super) key: Option<String>,
    /// Not to be delivered before this time, such as 2026-04-30T08:00:00Z or 2026-04-30T16:00:00+08:00.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "delay")]
    pub(super) not_before: Option<Time>,
    /// Not to be delivered after this time.
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "ttl")]
    pub(super) expires_at: Option<Time>,
    /// Wait until all groups that the task is for have settled it, and print what each says, as contactctl run does. For a single task.
    /// The exit code is 1 if one failed, and 5 if none did but another task took its place first (--replace).
    #[arg(long, conflicts_with_all = ["file", "whole"])]
    pub(super) wait: bool,
    /// With --wait, how long: the exit code is then 124, and the task goes on.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "wait")]
    pub(super) timeout: Option<Duration>,
    /// Most tasks in one request. A request is also sent when it comes to 1 MiB, or when standard input has no more yet; but while
    /// one is under way, what comes meanwhile is gathered for the next.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) batch: u32,
}

/// What can be said of a task beside its text: of one that is submitted, and of those that a schedule makes.
#[derive(Debug, ClapArgs)]
pub(super) struct TaskOptions {
    #[command(flatten)]
    pub(in crate::ctl) beside: Beside,
    /// For this group alone, whether it is there or not yet. May be repeated: then each task is submitted once for each of the
    /// groups. Without it: for every group.
    #[arg(long, value_name = "GROUP", value_parser = addressee)]
    pub(in crate::ctl) to: Vec<String>,
    /// With several --to: one task for all of them, and not one for each. They must be there.
    #[arg(long, requires = "to")]
    pub(in crate::ctl) together: bool,
    /// For the groups whose labels match, as in os=linux,role in (web,api),!canary: =, ==, !=, in, notin, KEY (it is there) and !KEY (it
    /// is not); a comma stands for and. Each group is asked once, when it comes to the task; the ledger says for which it was not.
    #[arg(long, value_name = "SELECTOR", value_parser = selector, conflicts_with = "to")]
    pub(in crate::ctl) select: Option<String>,
    /// Not to be delivered before this time has passed, such as 10s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::ctl) delay: Option<Duration>,
    /// To be given up when this time has passed, such as 1h.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::ctl) ttl: Option<Duration>,
    /// How often it is delivered to a group before it goes to the dead letters. Without it: as the server is set.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::ctl) max_attempts: Option<u32>,
    /// How long it waits before it is tried again, as in max=5,first=10s,factor=2,cap=10m,jitter=0.1: the first wait, what each
    /// further one is multiplied with, the longest, and by which part they vary. A first loss costs no wait. `max` is
    /// --max-attempts. Without it: as the server is set.
    #[arg(long, value_name = "POLICY", value_parser = retry)]
    pub(in crate::ctl) retry: Option<String>,
    /// How long work on it may take, such as 10m: then it is ended, with the command of contact-client --exec and all that it started.
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub(in crate::ctl) task_timeout: Option<u32>,
    /// What comes of it then: another attempt, if one is left, or none.
    #[arg(long, value_enum, default_value_t = OnTimeout::Retry, requires = "task_timeout")]
    pub(in crate::ctl) on_timeout: OnTimeout,
    /// Which tasks of a group go first.
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    pub(in crate::ctl) priority: Priority,
    /// The lane that the tasks are in, as a tenant or a file: of the tasks of one lane, a group has only so many under way at a time,
    /// one unless it is set otherwise (group set --lane-max), and lanes take turns. Of any text, as a key is.
    #[arg(long, value_parser = lane)]
    pub(in crate::ctl) lane: Option<String>,
    /// The newest counts: it takes the place of the newest task with this key for the same groups, where that has not begun. That one is
    /// given to nobody any more. While one of the key is under way in a group, the next waits. Of any text, as a key is.
    #[arg(long, value_name = "KEY", value_parser = replace, conflicts_with = "lane")]
    pub(in crate::ctl) replace: Option<String>,
    /// With --replace: not to be given out before nothing newer with the key came for so long, such as 10s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "replace")]
    pub(in crate::ctl) quiet: Option<Duration>,
    /// With --quiet: but so long after the first of those that came one after another. Without it, however long they come.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "quiet")]
    pub(in crate::ctl) max_wait: Option<Duration>,
}

/// What a task has beside its text.
#[derive(Debug, ClapArgs)]
pub(super) struct Beside {
    /// A header of each task, as in content-type=text/csv: keys are of a-z, 0-9, -, _ and ., values have no control characters. May be
    /// repeated, 32 times at most. A command of contact-client --exec has it in its environment, as CONTACT_HEADER_CONTENT_TYPE.
    #[arg(long, value_name = "KEY=VALUE", value_parser = header)]
    pub(super) header: Vec<(String, String)>,
    /// Send the bytes of this file, or with - of standard input, with each task, or as a task without a text. They count with the text
    /// against the server's --max-task.
    #[arg(long, value_name = "FILE")]
    pub(super) data_file: Option<PathBuf>,
}

/// Do one thing on many machines, and print what each says.
///
/// It is for the groups whose labels match when it begins, or for those that are named; an agent with an id of its own is a group of
/// its own. Each result is a line, as it comes: NAME: the first line of it. Who has not answered at the end is a line, too.
///
/// A run has a number, and a deadline, so it always ends. Ctrl-C leaves it running, and says how to come back (run watch) or take it
/// back (run cancel). The exit code is 0 when all are done, 1 when one failed, and 124 when the time was over before all had answered.
///
/// With --canary or --batch it goes out in parts: the next when the last is through. Machines that are away count as neither done nor
/// failed, and go last. When more failed than --max-failed, no part goes out any more until run resume, or run abort.
///
/// With --json, one object a result, and at the end one with how the run is. A text that is the name of a verb below comes after --.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl run --select role=web uptime
  contactctl run --to web-1 --to web-2 --full 'df -h'
  contactctl run --select 'os=linux,!canary' --fold 'uname -r'
  contactctl run --select role=web --canary 1 --batch 10% --soak 5m --max-failed 5% ./upgrade
  contactctl run list
  contactctl run watch 17
  contactctl run retry-failed 17")]
pub(super) struct Run {
    /// What to do: the text of a task.
    #[arg(value_name = "TEXT")]
    pub(super) text: Option<String>,
    #[command(flatten)]
    pub(super) beside: Beside,
    /// On the groups whose labels match, as in os=linux,role in (web,api),!canary.
    #[arg(long, value_name = "SELECTOR", value_parser = selector, conflicts_with = "to")]
    pub(super) select: Option<String>,
    /// On this group, which must be there. May be repeated.
    #[arg(long, value_name = "GROUP", value_parser = addressee)]
    pub(super) to: Vec<String>,
    /// Also on groups that match later, until the deadline: the run goes on until then.
    #[arg(long, requires = "select")]
    pub(super) include_new: bool,
    /// How long the run goes on at most. What has no answer then is expired. Without it: an hour.
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    pub(super) deadline: Option<Duration>,
    /// How many are the first part, as in 1 or 5%.
    #[arg(long, value_name = "N|N%")]
    pub(super) canary: Option<Share>,
    /// How many are each part after that. Without it: all that are left.
    #[arg(long, value_name = "N|N%")]
    pub(super) batch: Option<Share>,
    /// How long to wait after a part is through.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) soak: Option<Duration>,
    /// In parts: when more than this have failed, no further part goes out. Without it: none may fail.
    #[arg(long, value_name = "N|N%")]
    pub(super) max_failed: Option<Share>,
    /// How often it is tried on each machine: with 1, what fails or is cut short is said to have failed at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_attempts: u32,
    /// How long it waits before it is tried again, as with submit.
    #[arg(long, value_name = "POLICY", value_parser = retry)]
    pub(super) retry: Option<String>,
    /// How long work on it may take on each machine, as with submit.
    #[arg(long, value_name = "DURATION", value_parser = millis)]
    pub(super) task_timeout: Option<u32>,
    /// What comes of it then: another attempt, if one is left, or none.
    #[arg(long, value_enum, default_value_t = OnTimeout::Retry, requires = "task_timeout")]
    pub(super) on_timeout: OnTimeout,
    /// Which tasks of a group go first.
    #[arg(long, value_enum, default_value_t = Priority::Normal)]
    pub(super) priority: Priority,
    /// Do not ask, at a terminal, before it is run on more than ten groups.
    #[arg(long, short)]
    pub(super) yes: bool,
    /// Say on how many groups it would be run, and begin nothing.
    #[arg(long, conflicts_with = "detach")]
    pub(super) dry_run: bool,
    /// Begin it, say its number, and do not wait.
    #[arg(long, short)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) shown: Shown,
    #[command(subcommand)]
    pub(super) verb: Option<RunVerb>,
}

/// How results are printed.
#[derive(Debug, ClapArgs)]
pub(super) struct Answers {
    /// Print all lines of each result, each behind the name.
    #[arg(long)]
    pub(super) full: bool,
    /// Print results that are the same once, at the end, behind the names of all that said so.
    #[arg(long)]
    pub(super) fold: bool,
}

/// How a run is watched.
#[derive(Debug, ClapArgs)]
pub(super) struct Shown {
    #[command(flatten)]
    pub(super) answers: Answers,
    /// How long to wait: the exit code is then 124, and the run goes on. Without it: until it ends.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum RunVerb {
    /// Show the runs that are kept, newest first.
    #[command(after_help = "\
Example:
  contactctl run list")]
    List,
    /// Show how a run is, and which groups are not done.
    #[command(after_help = "\
Example:
  contactctl run show 17 --targets")]
    Show {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
        /// Also those that are done.
        #[arg(long)]
        targets: bool,
    },
    /// Print all results of a run, and those to come, until it ends.
    #[command(after_help = "\
Example:
  contactctl run watch 17")]
    Watch {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
        #[command(flatten)]
        shown: Shown,
    },
    /// Give no further part of a run out, until it is resumed.
    #[command(after_help = "\
Example:
  contactctl run pause 17")]
    Pause {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
    },
    /// Have a run go on that is paused, or was stopped because too many failed.
    ///
    /// What failed so far counts no more; it is stopped again by what fails from now on.
    #[command(after_help = "\
Example:
  contactctl run resume 17")]
    Resume {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
    },
    /// Take back what of a run has not begun. What has begun goes on to its end.
    #[command(after_help = "\
Example:
  contactctl run abort 17")]
    Abort {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
    },
    /// Take a run back. Clients that are at work on it are told to end.
    #[command(after_help = "\
Example:
  contactctl run cancel 17")]
    Cancel {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
    },
    /// Begin a new run with those groups of a run that failed, or did not answer in time.
    #[command(after_help = "\
Example:
  contactctl run retry-failed 17")]
    RetryFailed {
        /// Its number.
        #[arg(value_name = "RUN", value_parser = id())]
        number: u64,
        /// Begin it, say its number, and do not wait.
        #[arg(long, short)]
        detach: bool,
        #[command(flatten)]
        shown: Shown,
    },
}

/// What comes of work that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnTimeout {
    Retry,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Priority {
    High,
    Normal,
    Low,
}

/// Watch the fleet live: groups, clients, tasks, and what is wrong.
///
/// Keys: q quits; 1, 2, 3, 4 and tab change between groups, clients, tasks and dead letters; the arrows or j and k move; enter opens
/// the selected task; p pauses or resumes the selected group, and asks first; / filters, s sorts, ? shows all of this. NO_COLOR
/// switches colours off.
///
/// When the server goes away, it says since when, and goes on when it is back.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl top
  contactctl top --interval 5s
  contactctl top --once            one frame as plain text, for scripts and mails
  contactctl top --once --json     the same as one object")]
pub(super) struct Top {
    /// How often to look. Longer, by itself, where the server needs long to answer.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub(super) interval: Duration,
    /// Print one frame as plain text, and end.
    #[arg(long)]
    pub(super) once: bool,
}

/// Check a server from here, and say what to change.
///
/// One line for each check: ok, warning or failed, and what to do about it. Nothing on the server is changed, and no task is
/// taken. The exit code is 1 if a check failed, and 0 if there are only warnings, unless --strict.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl doctor
  contactctl doctor --server 10.0.0.5:50052 --keepalive 90s     also: does something on the way cut what is idle?
  contactctl doctor --strict --json | jq 'select(.status != \"ok\")'")]
pub(super) struct Doctor {
    /// Where clients connect, as seen from here. Without it: the host of --server, with the port of the server's --listen.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(super) listen: Option<String>,
    /// Also hold a connection for this time, on which nothing happens but pings, and see whether something on the way cuts it.
    ///
    /// Firewalls and balancers often do so after 60 s, and some after 350 s.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) keepalive: Option<Duration>,
    /// A warning makes the exit code 1, too.
    #[arg(long)]
    pub(super) strict: bool,
}

/// Which clients.
#[derive(Debug, ClapArgs)]
pub(super) struct Clients {
    /// Everybody who has an id and is known, connected or not: with labels, version, system, and when it was last seen. Who was not
    /// seen for the server's --group-ttl is forgotten.
    #[arg(long)]
    pub(super) known: bool,
    /// Of these, those that are not connected for so long; 0s: all that are not connected.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) offline: Option<Duration>,
}

/// Show the log of tasks.
///
/// The latest twenty, each with where it stands, unless told otherwise. The state is that with the group that has most to do with
/// the task; with --to, that with this group. What goes through the log from its beginning, or follows it, shows no state.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl tasks --to workers --state waiting
  contactctl tasks --text invoice --latest 3
  contactctl tasks --follow
  contactctl tasks --all --json | jq -r .task")]
pub(super) struct Tasks {
    /// Only what is addressed to this group.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) to: Option<String>,
    /// Only what is in this state, or had this outcome last.
    #[arg(long, value_enum, conflicts_with_all = ["from", "follow"])]
    pub(super) state: Option<State>,
    /// Only what has this in its text, letter for letter.
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Option<String>,
    #[command(flatten)]
    pub(super) range: Range,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// To be delivered, or delivered again.
    Waiting,
    /// With a client.
    InFlight,
    /// Its groups are through with it, however that was.
    Settled,
    /// Settled by DONE.
    Done,
    /// A dead letter: it failed, or its attempts were used up.
    Dead,
    /// Its time was over before it was settled.
    Expired,
    /// Taken back.
    Cancelled,
    /// Another task took its place before it began.
    Replaced,
}

/// Show what came of tasks.
///
/// The latest twenty outcomes, unless told otherwise.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl results --latest 100
  contactctl results --to workers --state failed
  contactctl results --client oslo-1 --follow
  contactctl results --after 4711 --follow --json")]
pub(super) struct Results {
    /// Only what came of this task.
    #[arg(long, value_name = "ID", value_parser = id())]
    pub(super) task: Option<u64>,
    /// Only outcomes for this group.
    #[arg(long, value_name = "GROUP", value_parser = group, visible_alias = "group")]
    pub(super) to: Option<String>,
    /// Only what this client said: its id, or its address.
    #[arg(long, value_name = "CLIENT")]
    pub(super) client: Option<String>,
    /// Only outcomes of this kind, such as done, failed or timed-out.
    #[arg(long, value_name = "OUTCOME", value_parser = outcome, visible_alias = "outcome")]
    pub(super) state: Option<pb::Outcome>,
    /// Only what has this in its result, letter for letter.
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Option<String>,
    #[command(flatten)]
    pub(super) range: Range,
}

/// Show what clients reported.
///
/// The latest twenty statuses, unless told otherwise.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl statuses --follow
  contactctl statuses --client oslo-1")]
pub(super) struct Statuses {
    /// Only what this client reported: its id, or its address.
    #[arg(long, value_name = "CLIENT")]
    pub(super) client: Option<String>,
    /// Only what has this in it, letter for letter.
    #[arg(long, value_name = "TEXT")]
    pub(super) text: Option<String>,
    #[command(flatten)]
    pub(super) range: Range,
}

/// Which part of a log to show.
#[derive(Debug, ClapArgs)]
pub(super) struct Range {
    /// Begin with the latest N.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) latest: u32,
    /// Begin with the first one.
    #[arg(long, conflicts_with = "latest", group = "from")]
    pub(super) all: bool,
    /// Begin after this id, or this seq.
    #[arg(long, value_name = "ID", conflicts_with = "latest", group = "from")]
    pub(super) after: Option<u64>,
    /// End after N.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
    /// Go on as more come, until Ctrl-C.
    #[arg(long)]
    pub(super) follow: bool,
}

/// Show the tasks that were given up; retry or drop them.
///
/// Each with its last error: the latest twenty, unless told otherwise.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  contactctl dead --group workers
  contactctl dead --group workers --retry
  contactctl dead 17 18 --drop")]
pub(super) struct Dead {
    /// Retry or drop these tasks alone.
    #[arg(value_name = "ID", value_parser = id(), requires = "what", conflicts_with_all = ["latest", "from", "follow"])]
    pub(super) ids: Vec<u64>,
    /// Of this group alone.
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(super) group: Option<String>,
    /// Give all of them (of the group) to their groups again, with fresh attempts.
    #[arg(long, group = "what", conflicts_with_all = ["latest", "follow"])]
    pub(super) retry: bool,
    /// Take all of them (of the group) off the list. What came of the tasks stays in the log.
    #[arg(long, group = "what", conflicts_with_all = ["latest", "follow"])]
    pub(super) drop: bool,
    #[command(flatten)]
    pub(super) range: Range,
}

/// By its name, in any case, with - or _.
fn outcome(text: &str) -> Result<pb::Outcome, String> {
    let name = text.to_ascii_uppercase().replace('-', "_");
    pb::Outcome::from_str(&name).ok_or_else(|| {
        let all: Vec<_> = pb::Outcome::VALUES.iter().map(|outcome| kebab(*outcome)).collect();
        format!("it must be one of {}", all.join(", "))
    })
}

/// How an outcome is written as an argument.
fn kebab(outcome: pb::Outcome) -> String {
    format!("{outcome:?}").to_ascii_lowercase().replace('_', "-")
}

impl Range {
    /// Whether it says where to begin, and that is not before the end.
    pub(super) fn begins(&self) -> bool {
        self.all || self.after.is_some()
    }
}

fn id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

pub(super) fn address(text: &str) -> Result<String, String> {
    crate::target::check(text).map(|()| text.to_owned())
}

pub(super) fn lasting(text: &str) -> Result<Duration, String> {
    let lasting = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if lasting < Duration::from_secs(1) { Err("it must be 1s or more".into()) } else { Ok(lasting) }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if interval < Duration::from_millis(100) { Err("it must be 100ms or more".into()) } else { Ok(interval) }
}

fn group(text: &str) -> Result<String, String> {
    Name::new(NameOf::Group, text).map(|name| name.as_str().to_owned()).map_err(|e| e.to_string())
}

/// A group that a task is for. A comma is more likely a list than a part of a name, and no client would ever be in a group of that name.
fn addressee(text: &str) -> Result<String, String> {
    let name = Name::new(NameOf::To, text).map_err(|e| e.to_string())?;
    match text.split_once(',') {
        None => Ok(name.as_str().to_owned()),
        Some((a, b)) if a.is_empty() || b.is_empty() => Err("a group's name has no comma here".into()),
        Some((a, b)) => {
            Err(format!("it is one group; for several, repeat the option: --to {} --to {}", quote(a), quote(b)))
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be a key and a value, as in content-type=text/csv")?;
    Headers::new([(key, value)]).map_err(|e| e.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn key(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it must not be empty".into()) } else { Ok(text.to_owned()) }
}

/// A time with its offset from UTC. Without one it would be a guess whose time it is: that of this machine, or of the server.
fn time(text: &str) -> Result<Time, String> {
    let of_day = |local: &str| {
        humantime::parse_rfc3339_weak(local)
            .map_err(|e| format!("{e}; it must be a time such as 2026-04-30T08:00:00Z or 2026-04-30T16:00:00+08:00"))
    };
    let Some((local, offset)) = split_offset(text) else {
        of_day(text)?;
        return Err(format!("it must say its offset from UTC: {text}Z in UTC, {text}+08:00 in China"));
    };
    let time = of_day(local)?;
    let millis = time.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_millis()).ok());
    // 0 means not set on the wire.
    let millis = millis.map(|millis| millis - offset * 60_000).filter(|millis| *millis > 0);
    millis.map(Time).ok_or_else(|| "it must lie after 1970".into())
}

/// The time of day somewhere, and how many minutes that is ahead of UTC.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(utc) = text.strip_suffix(['Z', 'z']) {
        return Some((utc, 0));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let (sign, offset) = match offset.split_at_checked(1)? {
        ("+", offset) => (1, offset),
        ("-", offset) => (-1, offset),
        _ => return None,
    };
    let (hours, minutes) = offset.split_once(':')?;
    let part = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|n| digits && *n <= most)
    };
    Some((local, sign * (part(hours, 23)? * 60 + part(minutes, 59)?)))
}

/// A time in milliseconds, of which there must be some, and not more than 49 days.
fn millis(text: &str) -> Result<u32, String> {
    let millis = humantime::parse_duration(text).map_err(|e| e.to_string())?.as_millis();
    let millis = u32::try_from(millis).ok().filter(|millis| *millis > 0);
    millis.ok_or_else(|| "it is from 1ms to 49days".to_owned())
}

fn label(text: &str) -> Result<String, String> {
    Labels::default().add(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn selector(text: &str) -> Result<String, String> {
    text.parse::<Selector>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A policy, as the server will read it.
fn lane(name: &str) -> Result<String, String> {
    Name::new(NameOf::Lane, name).map(|name| name.to_string()).map_err(|error| error.to_string())
}

fn replace(key: &str) -> Result<String, String> {
    Name::new(NameOf::Replace, key).map(|name| name.to_string()).map_err(|error| error.to_string())
}

fn count_or_none(text: &str) -> Result<u32, String> {
    match text {
        "none" => Ok(0),
        _ => text.parse().map_err(|_| "it is a number, or none".to_owned()),
    }
}

fn rate_or_none(text: &str) -> Result<f64, String> {
    match text {
        "none" | "0" => Ok(0.0),
        _ => match text.parse().ok().and_then(PerSecond::of) {
            Some(rate) => Ok(rate.number()),
            None => Err("it is a number from 0.001 to 1000000, or none".into()),
        },
    }
}

fn retry(policy: &str) -> Result<String, String> {
    policy.parse::<RetryPolicy>().map(|_| policy.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn usage_error(args: &[&str]) -> String {
        let args = ["contactctl"].iter().chain(args);
        Args::try_parse_from(args).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn the_arguments_do_not_contradict_one_another() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_makes_no_sense_together_is_wrong_usage() {
        for args in [
            &["submit"][..],
            &["submit", "x", "--file", "f"],
            &["submit", "x", "--delay", "1s", "--not-before", "2026-01-01T00:00:00Z"],
            &["submit", "x", "--ttl", "1s", "--expires-at", "2026-01-01T00:00:00Z"],
            &["submit", "x", "--to", ""],
            &["submit", "x", "--not-before", "tomorrow"],
            &["schedule", "set", "n", "x"],
            &["schedule", "set", "n", "--every", "10m"],
            &["schedule", "set", "n", "x", "--every", "10m", "--cron", "* * * * *"],
            &["schedule", "set", "n", "x", "--every", "10m", "--zone", "UTC"],
            &["schedule", "set", "n", "x", "--every", "10m", "--key", "k"],
            &["schedule", "set", "n", "x", "--every", "1ms"],
            &["tasks", "--all", "--latest", "3"],
            &["tasks", "--all", "--after", "3"],
            &["tasks", "--all", "--state", "waiting"],
            &["tasks", "--follow", "--state", "waiting"],
            &["tasks", "--state", "lost"],
            &["results", "--state", "lots"],
            &["dead", "--retry", "--drop"],
            &["dead", "17"],
            &["dead", "17", "--drop", "--all"],
            &["task", "0"],
            &["top", "--interval", "1ms"],
            &["doctor", "--listen", "nowhere"],
            &["completions", "tcsh"],
            &["tasks", "--server", "http://127.0.0.1:50052"],
            &["tasks", "--server", "localhost"],
        ] {
            usage_error(args);
        }
    }

    #[test]
    fn a_time_says_its_offset_from_utc() {
        let eight = Ok(Time(1_777_536_000_000));
        for text in [
            "2026-04-30T08:00:00Z",
            "2026-04-30 08:00:00z",
            "2026-04-30T16:00:00+08:00",
            "2026-04-30T13:30:00+05:30",
            "2026-04-29T22:00:00-10:00",
            "2026-04-30T08:00:00.000-00:00",
        ] {
            assert_eq!(time(text), eight, "{text}");
        }
        for text in ["2026-04-30T08:00:00", "2026-04-30 08:00:00.5"] {
            let cure = format!("its offset from UTC: {text}Z in UTC");
            assert!(
                time(text).is_err_and(|error| error.contains(&cure)) && time(&format!("{text}Z")).is_ok(),
                "{text}"
            );
        }
        for text in ["2026-04-30T08:00:00+8:00", "2026-04-30", "2026-04-30 08:00", "tomorrow", "", "明天早上八点"]
        {
            let said = time(text).unwrap_err();
            assert!(said.contains("such as 2026-04-30T08:00:00Z") && !said.contains("in China"), "{text}: {said}");
        }
        for text in
            ["2026-04-30T08:00:00+24:00", "2026-04-30T08:00:00+08:60", "2026-13-30T08:00:00Z", "1970-01-01T00:00:00Z"]
        {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
