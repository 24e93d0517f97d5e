//! Many clients that wait for something to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use super::memory::Memory;
use crate::common::DEADLINE;
use crate::common::program::Program;
use crate::common::server::Server;
use crate::rig::{Client, Operator};

/// How many, if not said otherwise; the goal is meant for 5,000, which takes a while. On 500, what is made once weighs up to 8 kB each.
const CLIENTS: usize = 1_000;

/// Where and how many, for the process that plays them.
const CROWD: &str = "CONTACT_TEST_CROWD";

struct Usage {
    /// By name, how many of it.
    threads: BTreeMap<String, usize>,
    resident: usize,
}

impl Usage {
    /// Without C-core's, which come when they are first needed, and of which a crowd that comes all at once makes a few more.
    fn own_threads(&self) -> BTreeMap<&str, usize> {
        let own = self.threads.iter().filter(|(name, _)| !OF_C_CORE.contains(&name.as_str()));
        own.map(|(name, count)| (name.as_str(), *count)).collect()
    }
}

const OF_C_CORE: [&str; 5] = ["default-executo", "event_engine", "grpc_global_tim", "resolver-execut", "timer_manager"];

fn usage(program: &Program) -> Usage {
    let process = Path::new("/proc").join(program.id().to_string());
    let name_of = |thread: &Path| fs::read_to_string(thread.join("comm")).map(|name| name.trim().to_owned());
    let own = name_of(&process).unwrap();
    let began = Instant::now();
    loop {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(process.join("task")).unwrap() {
            // One that ended meanwhile has no name.
            let Ok(name) = name_of(&thread.unwrap().path()) else { continue };
            *threads.entry(name).or_insert(0) += 1;
        }
        // A thread that has just begun has the name of the first one still.
        if threads[&own] == 1 {
            return Usage { threads, resident: Memory::of(program).now };
        }
        assert!(began.elapsed() < DEADLINE, "{threads:?}");
    }
}

#[test]
fn many_idle_clients_cost_no_thread_and_little_memory_and_are_gone_with_their_process() {
    let count = env::var("CONTACT_TEST_CLIENTS").map_or(CLIENTS, |count| count.parse().unwrap());
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    // One of each kind before, so that what is made once is there.
    let one = Client::of(&server.listen, &[]);
    let mut stays = one.tasks();
    operator.connected(1);
    let before = usage(server.program());

    let mut crowd = Command::new(env::current_exe().unwrap());
    crowd.args(["--ignored", "--exact", "server::idle::crowd", "--nocapture"]);
    crowd.env(CROWD, format!("{} {count}", server.listen));
    let mut crowd = Program::spawn("crowd", &mut crowd).unwrap();
    operator.connected(count + 1);
    let with = usage(server.program());

    let killed = Instant::now();
    crowd.kill();
    operator.connected(1);
    let gone = killed.elapsed();

    let each = with.resident.saturating_sub(before.resident) / count;
    println!("{count} idle clients: {each} bytes each, all gone after {gone:?}");
    println!("threads before: {:?}, with them: {:?}", before.threads, with.threads);
    assert_eq!(with.own_threads(), before.own_threads());
    assert!(with.threads.values().sum::<usize>() <= before.threads.values().sum::<usize>() + 16);
    // 40 to 42 kB on a quiet machine, up to 45 kB on a busy one; a thread, or a buffer of the size of a message, would be more.
    assert!(each <= 48_000, "{each} bytes for each client");
    assert!(gone < Duration::from_secs(if count > CLIENTS { 1 } else { 5 }), "gone after {gone:?}");
    operator.submit(&["still there?"]);
    assert_eq!(stays.next().task, "still there?");
}

/// Not a test: the process that plays the clients.
#[test]
#[ignore = "played by another test"]
fn crowd() {
    let Ok(crowd) = env::var(CROWD) else { return };
    let (address, count) = crowd.split_once(' ').unwrap();
    let clients: Vec<Client> = (0..count.parse().unwrap()).map(|_| Client::of(address, &[])).collect();
    let _streams: Vec<_> = clients.iter().map(Client::tasks).collect();
    loop {
        std::thread::park();
    }
}
