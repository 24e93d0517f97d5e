//! The settings of the programs: from the command line, the environment and a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::common::server::Server;

/// The programs that have settings, each with its table in the file.
const PROGRAMS: [(&str, &str); 2] =
    [(env!("CARGO_BIN_EXE_contact-server"), "server"), (env!("CARGO_BIN_EXE_contact-client"), "client")];
const SERVER: &str = PROGRAMS[0].0;

/// A program, with nothing in its environment that sets anything.
fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name == "RUST_LOG" || name.to_str().is_some_and(|name| name.starts_with("CONTACT_")) {
            command.env_remove(name);
        }
    }
    command
}

/// One that prints its settings.
fn printing(path: &str) -> Command {
    let mut command = program(path);
    command.arg("--print-config");
    command
}

/// A file of settings in a folder of its own.
struct File {
    folder: TempDir,
}

impl File {
    fn with(text: &str) -> File {
        let file = File { folder: tempfile::tempdir().unwrap() };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("contact.toml")
    }
}

/// A setting as `--print-config` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    value: String,
    /// `None`: a default.
    origin: Option<String>,
}

#[track_caller]
fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

#[track_caller]
fn print_config(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The settings of what `--print-config` printed, by the names of their flags. Comments have a space behind their sign.
fn settings(printed: &str) -> BTreeMap<String, Setting> {
    let (others, limits) = printed.split_once("\n[limits]\n").unwrap_or((printed, ""));
    let lines = |part: &'static str, text| str::lines(text).map(move |line| (part, line));
    let lines = lines("", others).chain(lines("limit-", limits)).filter(|(_, line)| !line.starts_with("# "));
    let pairs = lines.filter_map(|(part, line)| {
        let (key, rest) = line.trim_start_matches('#').split_once(" = ")?;
        Some((line, (format!("{part}{key}"), rest)))
    });
    let setting = |(line, (key, rest)): (&str, (String, &str))| {
        let (value, origin) = match rest.split_once(" # ") {
            Some((value, origin)) if !line.starts_with('#') => (value, Some(origin.to_owned())),
            _ => (rest, None),
        };
        (key, Setting { value: value.to_owned(), origin })
    };
    pairs.map(setting).collect()
}

#[track_caller]
fn effective(command: &mut Command) -> BTreeMap<String, Setting> {
    settings(&print_config(command))
}

/// All flags of a program that set something, with what they want (`TIME`), from its help.
fn flags(path: &str) -> Vec<(String, String)> {
    let help = String::from_utf8(output(program(path).arg("-h")).stdout).unwrap();
    let lines = help.lines().filter_map(|line| line.strip_prefix("      --"));
    let named = lines.map(|line| {
        let (name, rest) = line.split_at(line.find([' ', '[']).unwrap_or(line.len()));
        let wants = rest.trim_start_matches([' ', '[', '=']).strip_prefix('<').and_then(|rest| rest.split('>').next());
        (name.to_owned(), wants.unwrap_or_default().to_owned())
    });
    named.filter(|(name, _)| name != "config" && name != "print-config").collect()
}

/// A value for a flag, none of which is a default: the `n`th of three.
fn value(wants: &str, n: usize) -> String {
    match wants {
        "HOST:PORT" | "ADDR" => format!("127.0.0.1:{n}"),
        "TIME" => format!("{}s", 70 + n),
        "N" | "BYTES" => (70 + n).to_string(),
        "NAME" | "NAME[,NAME...]" | "GROUP" | "DIR" | "FILE" | "INVITATION" | "CMD" => format!("some-{n}"),
        "LEVEL" => ["error", "warn", "debug"][n].into(),
        "WHEN" => "required".into(),
        "WHERE" => "new".into(),
        "POLICY" => format!("first={}s", 70 + n),
        "KEY=VALUE[,KEY=VALUE...]" => format!("key=some-{n}"),
        "true|false" => "true".into(),
        // Of several servers, as far as the programs are built to be such.
        "URL[,URL...]" => format!("http://127.0.0.1:{n}"),
        "1|3|5" => ["1", "5", "1"][n].into(),
        other => panic!("a flag wants {other}: say here what that may be"),
    }
}

/// The environment variable of a flag.
fn variable(flag: &str) -> String {
    format!("CONTACT_{}", flag.to_uppercase().replace('-', "_"))
}

/// All of a program's flags with the `n`th value, in each of the three ways.
fn on_the_line(flags: &[(String, String)], n: usize) -> Vec<String> {
    flags.iter().map(|(flag, wants)| format!("--{flag}={}", value(wants, n))).collect()
}

fn in_variables(flags: &[(String, String)], n: usize) -> Vec<(String, String)> {
    flags.iter().map(|(flag, wants)| (variable(flag), value(wants, n))).collect()
}

fn in_a_file(table: &str, flags: &[(String, String)], n: usize) -> File {
    let line = |flag: &str, wants: &str| match value(wants, n) {
        text if text == "true" || text.parse::<i64>().is_ok() => format!("{flag} = {text}\n"),
        text => format!("{flag} = \"{text}\"\n"),
    };
    let (mut others, mut limits) = (String::new(), String::new());
    for (flag, wants) in flags {
        match flag.strip_prefix("limit-") {
            None => others += &line(flag, wants),
            Some(limit) => limits += &line(limit, wants),
        }
    }
    File::with(&format!("[{table}]\n{others}[limits]\n{limits}"))
}

/// The values alone, without the quotes and brackets of the file.
fn values(settings: &BTreeMap<String, Setting>) -> BTreeMap<String, String> {
    let bare = |setting: &Setting| setting.value.trim_matches(['[', ']', '"']).to_owned();
    settings.iter().map(|(key, setting)| (key.clone(), bare(setting))).collect()
}

fn wanted(flags: &[(String, String)], n: usize) -> BTreeMap<String, String> {
    flags.iter().map(|(flag, wants)| (flag.clone(), value(wants, n))).collect()
}

#[test]
fn every_flag_can_be_set_in_all_three_ways_and_the_nearer_one_counts() {
    for (path, table) in PROGRAMS {
        let flags = flags(path);
        assert!(flags.len() > 12, "{flags:?}");
        let file = in_a_file(table, &flags, 0);

        let mut command = printing(path);
        command.arg("--config").arg(file.path());
        let from_file = effective(&mut command);
        assert_eq!(values(&from_file), wanted(&flags, 0));
        let text = fs::read_to_string(file.path()).unwrap();
        for (flag, _) in &flags {
            let key = format!("{} = ", flag.strip_prefix("limit-").unwrap_or(flag));
            let line = text.lines().position(|line| line.starts_with(&key)).unwrap() + 1;
            let origin = from_file[flag].origin.as_deref().unwrap();
            assert!(origin.starts_with(&format!("{}:{line}:", file.path().display())), "{flag}: {origin}");
        }

        let mut command = printing(path);
        command.env("CONTACT_CONFIG", file.path()).envs(in_variables(&flags, 1));
        let from_variables = effective(&mut command);
        assert_eq!(values(&from_variables), wanted(&flags, 1));
        assert!(from_variables.iter().all(|(flag, setting)| setting.origin == Some(variable(flag))));

        let said = effective(command.args(on_the_line(&flags, 2)));
        assert_eq!(values(&said), wanted(&flags, 2));
        assert!(said.values().all(|setting| setting.origin.as_deref() == Some("the command line")));
    }
}

#[test]
fn what_is_printed_can_be_read_again_and_means_the_same() {
    for (path, _) in PROGRAMS {
        let flags = flags(path);
        let first = print_config(printing(path).args(on_the_line(&flags, 2)));
        let file = File::with(&first);
        let again = effective(printing(path).arg("--config").arg(file.path()));
        assert_eq!(values(&again), values(&settings(&first)));
        assert!(again.values().all(|setting| setting.origin.is_some()));

        // The defaults, too, when the sign before them is taken away. Those that are not set have the word for what is wanted.
        let defaults = print_config(&mut printing(path));
        let lines = defaults.lines().filter(|line| !line.starts_with("# ")).map(|line| line.trim_start_matches('#'));
        let set = lines.filter(|line| !line.is_empty() && line.parse::<toml::Table>().is_ok());
        let uncommented: String = set.map(|line| format!("{line}\n")).collect();
        assert!(uncommented.contains("\n[limits]\n") == (path == SERVER), "{uncommented}");
        let file = File::with(&uncommented);
        let again = effective(printing(path).arg("--config").arg(file.path()));
        assert_eq!(values(&again), values(&settings(&defaults)));
    }
}

#[test]
fn the_help_of_a_flag_stands_above_its_key() {
    let printed = print_config(&mut printing(SERVER));
    let key = printed.find("#ack-timeout = \"30s\"").unwrap();
    let above = printed[..key].trim_end().lines().last().unwrap();
    assert_eq!(above, "# How long a client may keep a task without a word before it is given to another");
}

#[test]
fn two_programs_share_a_file() {
    let file = File::with("[server]\nmax-attempts = 3\n[client]\nconcurrency = 4\n");
    for ((path, _), (key, value)) in PROGRAMS.into_iter().zip([("max-attempts", "3"), ("concurrency", "4")]) {
        assert_eq!(effective(printing(path).arg("--config").arg(file.path()))[key].value, value);
    }
}

#[test]
fn limits_stand_in_a_table_of_their_own() {
    let file = File::with("[server]\nmax-attempts = 3\n[limits]\nstreams = 20\nconnections = \"none\"\n");
    let settings = effective(printing(SERVER).arg("--config").arg(file.path()));
    let values = ["limit-streams", "limit-connections", "limit-bytes"].map(|key| settings[key].value.as_str());
    assert_eq!(values, ["20", "\"none\"", "\"none\""]);
    assert!(settings["limit-streams"].origin.as_ref().unwrap().contains("contact.toml:4:"));
    // The client has none, and passes them over.
    print_config(printing(PROGRAMS[1].0).arg("--config").arg(file.path()));
    for (text, why) in [
        ("[limits]\nstream = 20\n", "unknown key \"stream\"; did you mean \"streams\"?"),
        ("[limits]\nstreams = 0\n", "limit-streams cannot be \"0\": must be a whole number from 1, or none"),
        ("[server]\nlimit-streams = 2\n", "unknown key \"limit-streams\""),
    ] {
        let file = File::with(text);
        let said = output(printing(SERVER).arg("--config").arg(file.path()));
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn a_switch_can_be_switched_off_again() {
    let file = File::with("[server]\ndemo = true\n");
    let mut command = printing(SERVER);
    command.arg("--config").arg(file.path());
    assert_eq!(effective(&mut command)["demo"].value, "true");
    assert_eq!(effective(command.arg("--demo=false"))["demo"].value, "false");
}

#[test]
fn a_list_is_an_array_in_a_file_and_has_commas_in_the_environment() {
    let file = File::with("[server]\nhttp-host = [\"one\", \"two\"]\n");
    let mut command = printing(SERVER);
    command.arg("--config").arg(file.path());
    assert_eq!(effective(&mut command)["http-host"].value, "[\"one\", \"two\"]");
    assert_eq!(effective(command.env("CONTACT_HTTP_HOST", "three, four"))["http-host"].value, "[\"three\", \"four\"]");
}

#[test]
fn rust_log_counts_unless_the_log_is_set_and_one_that_makes_no_sense_stops_nobody() {
    let mut command = printing(SERVER);
    command.env("RUST_LOG", "warn");
    let log = effective(&mut command)["log"].clone();
    assert_eq!((log.value.as_str(), log.origin.as_deref()), ("\"warn\"", Some("RUST_LOG")));
    assert_eq!(effective(command.env("CONTACT_LOG", "debug"))["log"].value, "\"debug\"");
    assert_eq!(effective(printing(SERVER).env("RUST_LOG", "waarn"))["log"].value, "\"info\"");
}

/// What a server says of settings that are wrong.
#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn all_that_is_wrong_in_a_file_is_said_with_its_place() {
    let text = "\
listen = \"127.0.0.1:0\"
[server]
ack-timout = \"30s\"
retain = \"soon\"
max-attempts = 0
data = { folder = \"x\" }
demo = \"perhaps\"
listen = [\"a\", \"b\"]
anonymous-from = \"middle\"
whatever = 1
[sever]
";
    let file = File::with(text);
    let said = refused(program(SERVER).arg("--config").arg(file.path()));
    let unknown = match cfg!(feature = "cluster") {
        true => "unknown key \"whatever\"; there are ack-timeout, advertise, agent-group,",
        false => "unknown key \"whatever\"; there are ack-timeout, agent-group,",
    };
    let wanted = [
        (1, "\"listen\" must stand in a table: write [server] above it"),
        (3, "unknown key \"ack-timout\"; did you mean \"ack-timeout\"?"),
        (4, "retain cannot be \"soon\": expected number"),
        (5, "max-attempts cannot be \"0\""),
        (6, "data must be a text, a number, or true or false"),
        (7, "demo cannot be \"perhaps\": it must be true or false"),
        (8, "listen is one value"),
        (9, "anonymous-from cannot be \"middle\": it must be first or new"),
        (10, unknown),
        (11, "unknown table \"sever\"; did you mean \"server\"?"),
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), wanted.len(), "{said}");
    for (line, (number, words)) in lines.into_iter().zip(wanted) {
        let place = format!("contact-server: {}:{number}:", file.path().display());
        assert!(line.starts_with(&place) && line.contains(words), "{line} is not {place} {words}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let file = File::with("[server]\nlisten = \n");
    let said = refused(program(SERVER).arg("--config").arg(file.path()));
    assert!(said.starts_with(&format!("contact-server: {}:2:", file.path().display())), "{said}");
    let said = refused(program(SERVER).env("CONTACT_CONFIG", "/no/such.toml"));
    assert!(said.contains("/no/such.toml cannot be read: No such file"), "{said}");
}

#[test]
fn a_variable_that_is_wrong_is_named_and_a_misspelt_one_is_mentioned() {
    let said = refused(program(SERVER).env("CONTACT_RETAIN", "soon"));
    assert!(said.starts_with("contact-server: CONTACT_RETAIN cannot be \"soon\": "), "{said}");
    assert_eq!(effective(printing(SERVER).env("CONTACT_RETAIN", ""))["retain"].value, "\"7d\"", "empty: not set");

    let folder = tempfile::tempdir().unwrap();
    let mut command = program(SERVER);
    let server =
        Program::spawn("server", on_free_ports(&mut command, folder.path()).env("CONTACT_RETIAN", "1d")).unwrap();
    let slip = "CONTACT_RETIAN is no setting of this program; did you mean CONTACT_RETAIN?";
    server.err.wait_for("a word on the slip", |line| line.contains(slip));
}

fn on_free_ports<'a>(command: &'a mut Command, data: &Path) -> &'a mut Command {
    command.args(["--listen=127.0.0.1:0", "--control=127.0.0.1:0", "--http=off", "--data"]).arg(data)
}

fn state(server: &Server) -> Value {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream.write_all(b"GET /api/state HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Waits until the page, which looks now and then, has this ack-timeout.
#[track_caller]
fn shows_ack_timeout(server: &Server, millis: u64) {
    let deadline = Instant::now() + DEADLINE;
    while state(server)["server"]["ack_timeout_ms"] != millis {
        assert!(Instant::now() < deadline, "{} is not {millis}", state(server)["server"]);
        thread::sleep(Duration::from_millis(20));
    }
}

/// The attempts of the only task that is dead, when there is one.
#[track_caller]
fn given_up_after(server: &Server, attempts: u64) {
    let task = server.submit(&["it never works"]);
    let _worker = server.client(&["--group", "workers", "--exec", "exit 75", "--retry-delay", "10ms"]);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let dead = server.ctl(&["dead"]);
        if let Some(dead) = dead.iter().find(|dead| dead["task_id"] == task) {
            assert_eq!(dead["attempt"], attempts, "{dead}");
            return;
        }
        assert!(Instant::now() < deadline, "task {task} is not given up: {dead:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_member_of_a_group_that_says_no_name_is_called_by_its_machine_and_process() {
    let server = Server::start(&[]);
    let worker = |more: &[&str]| server.client(&[&["--exec", "cat"], more].concat());
    let member = worker(&["--group", "workers"]);
    server.submit(&["who does this?"]);
    let result = &server.at_least(1, "results")[0];
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let name = result["client"].as_str().unwrap();
    assert!(name.starts_with(&format!("{host}-{}-", member.id())), "{name}");
    drop(member);

    let _named = worker(&["--group", "named", "--id", "w1"]);
    let _alone = worker(&[]);
    let results = server.at_least(3, "results");
    let client = |group: &str| results.iter().find(|result| result["group"] == group).unwrap()["client"].clone();
    assert_eq!(client("named"), "w1");
    assert!(client("").as_str().unwrap().starts_with("ipv4:"), "one that says nothing stays anonymous");
}

#[test]
fn a_machine_whose_name_is_of_another_script_gives_its_workers_that_name() {
    let utf8 = "hostname 工作站";
    let mut unshare = Command::new("unshare");
    if !unshare.args(["--uts", "sh", "-c", utf8]).status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: the name of a machine cannot be set here for one process");
    }
    let server = Server::start(&[]);
    let client = env!("CARGO_BIN_EXE_contact-client");
    let script = format!("{utf8}; exec {client} --server {} --group workers", server.listen);
    let _member = Program::spawn("worker", Command::new("unshare").args(["--uts", "sh", "-c", &script])).unwrap();
    server.submit(&["who does this?"]);
    let result = &server.at_least(1, "results")[0];
    assert!(result["client"].as_str().unwrap().starts_with("工作站-"), "{result}");
}

#[test]
fn sighup_takes_over_what_can_change_and_names_what_cannot() {
    let file = File::with("[server]\nmax-attempts = 2\nack-timeout = \"1h\"\nlog = \"warn\"\n");
    let mut server = Server::start(&["--config", file.path().to_str().unwrap(), "--retain", "2d"]);
    shows_ack_timeout(&server, 3_600_000);
    given_up_after(&server, 2);

    file.write("[server]\nmax-attempts = 1\nack-timeout = \"20s\"\nmax-task = 1000\nretain = \"3d\"\n");
    server.program().signal("HUP");
    let err = &server.program().err;
    err.wait_for("the end of the reload", |line| line.contains("reloaded: "));
    let log = err.so_far().join("\n");
    for line in [
        "ack-timeout is 20s now, and was 1h",
        "max-attempts is 1 now, and was 2",
        "log is info now, and was warn",
        "max-task changed from 1048576 to 1000: needs a restart",
    ] {
        assert!(log.contains(line), "{line:?} is not in {log}");
    }
    assert!(!log.contains("retain"), "the command line counts before the file: {log}");
    shows_ack_timeout(&server, 20_000);
    given_up_after(&server, 1);
}

#[test]
fn a_broken_file_changes_nothing_and_the_next_one_is_read_again() {
    let file = File::with("[server]\nack-timeout = \"40s\"\n");
    let mut server = Server::start(&["--config", file.path().to_str().unwrap()]);
    file.write("[server]\nack-timeout = \"50s\"\nmax-attempts = \"many\"\n");
    server.program().signal("HUP");
    let why =
        format!("not reloaded, all stays as it is: {}:3:16: max-attempts cannot be \"many\"", file.path().display());
    server.program().err.wait_for("why not", |line| line.contains(&why));
    shows_ack_timeout(&server, 40_000);
    server.submit(&["it goes on"]);

    file.write("[server]\nack-timeout = \"50s\"\n");
    server.program().signal("HUP");
    server.program().err.wait_for("the reload", |line| line.contains("reloaded: "));
    shows_ack_timeout(&server, 50_000);
}

#[cfg(unix)]
#[test]
fn few_open_files_are_mentioned_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\"", SERVER]);
    let server = Program::spawn("server", on_free_ports(&mut command, folder.path())).unwrap();
    server.err.wait_for("room", |line| {
        line.contains("room for 128 clients: 256 files may be open, 64 of them for operators")
    });
    server.err.wait_for("what to do", |line| line.contains("LimitNOFILE=") && line.contains("ulimit -n"));
}

#[cfg(unix)]
#[test]
fn a_folder_that_takes_nothing_is_refused_before_anything_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program("sh");
    // As a full disk does, writing fails.
    command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", SERVER]);
    let mut server = Program::spawn("server", on_free_ports(&mut command, folder.path())).unwrap();
    assert_eq!(server.ended().code(), Some(1));
    let said = server.err.so_far().join("\n");
    assert!(said.contains(&format!("nothing can be written to {}", folder.path().display())), "{said}");
    assert!(said.contains("make room on its disk") && said.contains("--data"), "{said}");
    assert_eq!(server.out.so_far(), [""; 0]);
}

/// One of the files by which a server is set up.
#[track_caller]
fn deployed(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy").join(name)).unwrap()
}

#[test]
fn the_file_among_the_documents_is_what_the_server_prints() {
    let (printed, deployed) = (print_config(&mut printing(SERVER)), deployed("contact.toml"));
    let mut lines = deployed.lines();
    let is_there = printed.lines().all(|line| lines.any(|other| other == line));
    // It is that of a release. A server that cannot be one of several has fewer settings.
    let is_it = if cfg!(feature = "cluster") { deployed == printed } else { is_there };
    assert!(is_it, "make it again, by a server built with --features cluster: contact-server --print-config");
}

#[test]
#[cfg(feature = "cluster")]
fn what_is_set_on_each_of_three_machines_makes_a_server_one_of_several() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cluster.md")).unwrap();
    let (_, rest) = text.split_once("cat > /etc/contact/contact.toml <<'END'\n").unwrap();
    let lines = rest.split_once("\nEND\n").unwrap().0.lines();
    // The files of TLS are not there.
    let (tls, others): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains("/etc/contact/"));
    assert_eq!(tls.len(), 4);
    let file = File::with(&others.join("\n"));
    let settings = effective(printing(SERVER).arg("--config").arg(file.path()));
    assert!(settings["nats"].value.matches("nats://").count() == 3, "{:?}", settings["nats"]);
    assert_eq!(settings["advertise"].value, settings["listen"].value);

    // It says what is missing before it looks for NATS: who is let in.
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(SERVER);
    command.args(["--listen=0.0.0.0:0", "--control=127.0.0.1:0", "--http=off", "--data"]).arg(folder.path());
    let said = String::from_utf8(output(command.arg("--config").arg(file.path())).stderr).unwrap();
    assert!(said.contains("0.0.0.0:0 can be reached by other machines") && said.contains("--tls-cert"), "{said}");
}

#[test]
fn the_unit_and_the_image_set_nothing_but_settings() {
    let flags = flags(SERVER);
    let known: Vec<String> = flags.iter().map(|(flag, _)| &**flag).chain(["config"]).map(variable).collect();
    for name in ["contact-server.service", "Dockerfile"] {
        let text = deployed(name);
        let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        let (right, wrong): (Vec<&str>, Vec<&str>) =
            words.filter(|word| word.starts_with("CONTACT_")).partition(|word| known.iter().any(|known| known == word));
        assert_eq!(wrong, [""; 0], "{name}");
        assert!(!right.is_empty(), "{name}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("contact-server.service");
    // It looks for the programs, too.
    fs::write(&unit, deployed("contact-server.service").replace("=contact-server", &format!("={SERVER}"))).unwrap();
    let output = match Command::new("systemd-analyze").arg("verify").arg(unit).output() {
        Ok(output) => output,
        Err(e) => return crate::common::skipped(&format!("systemd-analyze cannot be run: {e}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // It may have something to say about the machine's own units.
    let about: Vec<&str> = said.lines().filter(|line| line.contains("contact-server")).collect();
    assert_eq!(about, [""; 0]);
}

#[test]
#[cfg(target_os = "linux")]
fn for_the_journal_lines_carry_their_level_and_no_time() {
    let said = |journal: &dyn Fn(&rustix::fs::Stat) -> String| {
        let (mut from, to) = std::io::pipe().unwrap();
        let stream = journal(&rustix::fs::fstat(&to).unwrap());
        let folder = tempfile::tempdir().unwrap();
        // A folder that cannot be made ends the server after its first lines.
        fs::write(folder.path().join("file"), "").unwrap();
        let mut command = Command::new(SERVER);
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("file/data"));
        let mut child = command.env("JOURNAL_STREAM", stream).stderr(to).spawn().unwrap();
        drop(command);
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    };
    let own = said(&|stderr| format!("{}:{}", stderr.st_dev, stderr.st_ino));
    assert!(own.lines().any(|line| line.starts_with("<6>room for ")), "{own}");
    let of_somebody_else = said(&|stderr| format!("{}:{}", stderr.st_dev, stderr.st_ino + 1));
    assert!(of_somebody_else.lines().any(|line| line.contains("INFO ] room for ")), "{of_somebody_else}");
}
