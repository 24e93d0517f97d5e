//! Clients that do not read, or say more than a disk can take.

use grpcio::RpcStatusCode;

use super::memory::Memory;
use crate::common::server::Server;
use crate::rig::{Client, Operator, Rig, ack, done};

const TASKS: usize = 20_000;

/// About a kilobyte each: much more than what may be on its way to a client.
fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{n}{}", " ".repeat(1000))).collect()
}

#[test]
fn one_that_does_not_read_holds_up_nobody_costs_little_and_gets_everything_later() {
    let mut server = Server::start(&[]);
    let operator = Operator::of(&server.control);
    let mut slow: Vec<_> = (0..20).map(|_| Client::of(&server.listen, &[]).tasks()).collect();
    let mut named = Client::of(&server.listen, &[("contact-client", "slow"), ("contact-from", "first")]).tasks();
    let mut fast = Client::of(&server.listen, &[]).tasks();
    operator.connected(22);
    let before = Memory::of(server.program()).now;
    for first in (0..TASKS).step_by(1000) {
        operator.submit(&texts(first..first + 1000));
        for n in first..first + 1000 {
            assert_eq!(fast.next().id, n as u64 + 1);
        }
    }
    let after = Memory::of(server.program()).now;
    let each = after.saturating_sub(before) / 21;
    println!("{} MB of tasks unread: {each} bytes for each of 21 clients, all other memory included", TASKS / 1000);
    // What every server keeps of the newest tasks, for everyone together, is 16 MiB in the store and 16 MiB in the broker.
    assert!(after - before < 64 * 1024 * 1024 + 21 * 512 * 1024, "{before} bytes grew to {after}");
    for tasks in &mut slow[..2] {
        for n in 0..TASKS {
            assert_eq!(tasks.next().id, n as u64 + 1);
        }
    }
    assert_eq!(named.next().id, 1);
    drop((slow, named));
    operator.connected(1);
}

#[test]
fn one_of_a_group_that_does_not_read_leaves_the_rest_to_the_others() {
    let rig = Rig::start();
    let mut slow = rig.member("g", "slow").tasks();
    rig.operator.connected(1);
    let client = rig.member("g", "quick");
    let mut quick = client.tasks();
    rig.operator.connected(2);
    rig.operator.submit(&texts(0..2000));
    let mut telling = client.telling();
    // All but the window of the one that does not read.
    for _ in 0..2000 - 64 {
        assert!(telling.say(done(&quick.next())));
    }
    telling.end().unwrap();
    assert_eq!(rig.operator.connected(2)[0].in_flight, 64);
    assert!(slow.take(64).iter().all(|message| message.attempt == 1));
}

#[test]
fn one_that_does_not_read_can_be_taken_over() {
    let rig = Rig::with(|config| config.broker.max_window = 10_000);
    let mut old = rig.named("a").saying("contact-window", "10000").tasks();
    rig.operator.submit(&texts(0..5000));
    let clients = rig.operator.clients_until(|clients| clients.len() == 1 && clients[0].delivered > 0);
    assert!(clients[0].delivered < 5000, "all of it was on its way");
    let mut new = rig.named("a").saying("contact-window", "10000").tasks();
    let mut given: Vec<u64> = new.take(5000).iter().map(|message| message.id).collect();
    given.sort_unstable();
    assert_eq!(given, (1..=5000).collect::<Vec<_>>());
    // When it reads at last, it finds what was on the way, and then the end.
    assert_eq!(old.last().code(), RpcStatusCode::ABORTED);
}

#[test]
fn one_that_tells_more_than_the_disk_takes_is_slowed_down() {
    let mut server = Server::start(&[]);
    let before = Memory::of(server.program()).now;
    let tellers: Vec<_> = (0..4)
        .map(|_| {
            let client = Client::of(&server.listen, &[]);
            std::thread::spawn(move || {
                let large = "x".repeat(1024 * 1024);
                client.tell((0..128).map(|_| ack(&large)));
            })
        })
        .collect();
    for teller in tellers {
        teller.join().unwrap();
    }
    let most = Memory::of(server.program()).most;
    println!("512 MB of results at once: {before} bytes grew to {most}");
    assert!(most - before < 320 * 1024 * 1024, "{before} bytes grew to {most}");
}
