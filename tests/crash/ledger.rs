//! The server's logs, and what must be true of them and of what the parties saw.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
#[cfg(feature = "cluster")]
use std::thread;
#[cfg(feature = "cluster")]
use std::time::{Duration, Instant};

use contact::labels::Selector;
use contact::wire::control as pb;
use contact::wire::control_grpc::ControlClient;
use futures::StreamExt;
use futures::executor::block_on;
use grpcio::CallOption;

use super::operators::RUN;
use super::runs;
use super::witness::{Confirmed, Witness};
use super::workers::{is_poison, labels};
use super::{BROADCAST, CAREFUL, MAX_DELIVERIES, QUEUE};
use crate::common::program::Lines;

/// For whom a task is, in a line. Empty: for everyone.
pub fn aim(task: &pb::NewTask) -> String {
    aim_of(&task.to, &task.groups, &task.select)
}

fn aim_of(to: &str, groups: &[String], select: &str) -> String {
    let (mut groups, select) = (groups.to_vec(), select.parse().map(|it: Selector| it.to_string()).unwrap_or_default());
    groups.sort_unstable();
    format!("{to}{}{select}", groups.join(" and "))
}

/// Whether a task is for a group; `None`: for an anonymous client, which says nothing of itself.
fn is_for(task: &pb::Task, group: Option<&str>) -> bool {
    let labels = group.map(labels).unwrap_or_default();
    let is_named = |names: &[String]| group.is_some_and(|group| names.iter().any(|name| name == group));
    match task {
        _ if !task.to.is_empty() => group == Some(&task.to),
        _ if !task.groups.is_empty() => is_named(&task.groups),
        _ if !task.select.is_empty() => task.select.parse::<Selector>().unwrap().matches(&labels),
        _ => true,
    }
}

pub struct Ledger {
    pub tasks: BTreeMap<u64, pb::Task>,
    groups: BTreeSet<String>,
    pub results: Vec<pb::TaskResult>,
    pub runs: Vec<pb::RunDetails>,
    /// Results that were confirmed before the log was read to its end. Slow workers go on.
    confirmed: usize,
}

impl Ledger {
    /// Waits until every group has settled every task that is for it, and reads the logs.
    pub fn drained(witness: &Witness) -> Ledger {
        let client = ControlClient::new(witness.connect(&witness.control));
        let options = || CallOption::default().wait_for_ready(true).timeout(witness.patience);
        let request = |follow| pb::ListRequest { follow, ..Default::default() };
        let (tasks, groups, results) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let mut ledger = Ledger { tasks, groups, results, runs: runs::read(witness), confirmed: 0 };

        let groups = client.list_groups(&pb::ListGroupsRequest::new(), options()).unwrap();
        ledger.groups = block_on(groups).unwrap().groups.into_iter().map(|group| group.name).collect();
        let mut pages = client.list_tasks(&request(false), options()).unwrap();
        while let Some(page) = block_on(pages.next()) {
            for task in page.unwrap().tasks {
                let id = task.id;
                assert!(ledger.tasks.insert(id, task).is_none(), "task {id} is twice in the log");
            }
        }

        let mut open: HashSet<(String, u64)> = ledger.wanted().collect();
        let mut pages = client.list_results(&request(true), options()).unwrap();
        while !open.is_empty() {
            let page = match block_on(pages.next()) {
                Some(Ok(page)) => page,
                ended => {
                    let some: BTreeSet<_> = open.iter().take(20).collect();
                    let story = some.first().map(|(group, id)| ledger.story(group, *id));
                    panic!(
                        "{} tasks were never settled: {some:?} ({ended:?}){}",
                        open.len(),
                        story.unwrap_or_default()
                    );
                }
            };
            for result in page.results {
                if settles(&result) {
                    open.remove(&(result.group.clone(), result.task_id));
                }
                ledger.results.push(result);
            }
        }
        // What the library's workers still tell when all is settled is late, but it must not be wrong.
        ledger.confirmed = witness.confirmed.lock().unwrap().len();
        let after = ledger.results.last().map_or(0, |result| result.seq);
        let mut pages = client.list_results(&pb::ListRequest { after, ..request(false) }, options()).unwrap();
        while let Some(page) = block_on(pages.next()) {
            ledger.results.extend(page.unwrap().results);
        }
        ledger
    }

    /// Each group with each task that is for it.
    fn wanted(&self) -> impl Iterator<Item = (String, u64)> {
        self.groups.iter().flat_map(|group| {
            let of_group = self.tasks.values().filter(move |task| is_for(task, Some(group)));
            of_group.map(move |task| (group.clone(), task.id))
        })
    }

    /// It gets all of them, in their order, each time it connects. What counts is the last time.
    pub fn assert_the_anonymous_client_saw_all_broadcasts(&self, out: &Lines) {
        let broadcasts: Vec<&str> =
            self.tasks.values().filter(|task| is_for(task, None)).map(|task| task.task.as_str()).collect();
        let received = |line: &str| line.strip_prefix("客户端已接收到服务端任务:").map(str::to_owned);
        let last = broadcasts.last().unwrap();
        // Its last task may have come in an earlier life already.
        let saw = out.until("the last round of an anonymous client", |lines| {
            lines.iter().rev().find_map(|line| received(line)).filter(|line| line == last)?;
            let all: Vec<String> = lines.iter().filter_map(|line| received(line)).collect();
            let start = all.iter().rposition(|text| text == broadcasts[0])?;
            (all.len() - start >= broadcasts.len()).then(|| all[start..].to_vec())
        });
        assert_eq!(saw, broadcasts);
    }

    #[cfg(feature = "cluster")]
    /// The same of one that a thread of the test is: over each of its streams they came in their order, each once, and over the last all.
    pub fn assert_each_anonymous_stream_was_given_all_broadcasts(&self, witness: &Witness) {
        let broadcasts: Vec<u64> = self.tasks.values().filter(|task| is_for(task, None)).map(|task| task.id).collect();
        let deadline = Instant::now() + witness.patience;
        let is_through = || witness.anonymous.lock().unwrap().last().is_some_and(|ids| ids.len() >= broadcasts.len());
        while !is_through() {
            assert!(Instant::now() < deadline, "the last of {:?}", witness.anonymous.lock().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
        let streams = witness.anonymous.lock().unwrap();
        for ids in streams.iter() {
            let found = ids.iter().zip(&broadcasts).position(|(id, broadcast)| id != broadcast);
            assert!(
                ids.len() <= broadcasts.len() && found.is_none(),
                "at {found:?} of {} not as in the log: {ids:?}",
                ids.len()
            );
        }
        assert_eq!(streams.last(), Some(&broadcasts));
    }

    pub fn assert_consistent(&self, witness: &Witness) {
        self.assert_accepted_tasks_are_there(witness);
        self.assert_each_is_settled_once();
        self.assert_attempts_do_not_go_down();
        self.assert_what_was_confirmed_is_there(witness);
        self.assert_deliveries(witness);
        self.assert_what_is_spent_was_begun(witness);
        self.assert_poison_alone_is_given_up(witness);
    }

    fn assert_accepted_tasks_are_there(&self, witness: &Witness) {
        let accepted = witness.accepted.lock().unwrap();
        for said in accepted.iter() {
            let task = self.tasks.get(&said.id);
            let task = task.unwrap_or_else(|| panic!("accepted, and not in the log: {said:?}"));
            let stands = (&task.task, &aim_of(&task.to, &task.groups, &task.select), &task.key);
            assert_eq!(stands, (&said.text, &said.to, &said.key), "another task has the id of {said:?}");
        }
        let tried = witness.tried.lock().unwrap();
        let (mut texts, mut keys) = (HashSet::new(), HashSet::new());
        for task in self.tasks.values().filter(|task| !task.task.starts_with(RUN)) {
            let aim = aim_of(&task.to, &task.groups, &task.select);
            assert_eq!(tried.get(&task.task), Some(&aim), "nobody submitted {task:?}");
            assert!(texts.insert(&task.task), "submitted once, accepted twice: {task:?}");
            assert!(task.key.is_empty() || keys.insert(&task.key), "one key, two tasks: {task:?}");
        }
    }

    fn assert_each_is_settled_once(&self) {
        assert!(
            BROADCAST.iter().chain(&[QUEUE, CAREFUL]).all(|group| self.groups.contains(*group)),
            "{:?}",
            self.groups
        );
        let mut settled: HashMap<(&str, u64), &pb::TaskResult> = HashMap::new();
        for result in self.results.iter().filter(|result| !result.group.is_empty() && !result.late) {
            let again = settled.contains_key(&(result.group.as_str(), result.task_id));
            assert!(!again, "settled, and then again:{}", self.story(&result.group, result.task_id));
            if settles(result) {
                settled.insert((&result.group, result.task_id), result);
            }
        }
        for (group, id) in self.wanted() {
            assert!(settled.contains_key(&(group.as_str(), id)), "{group} never settled task {id}");
        }
        // What was cancelled before a group came to it was not held against its labels.
        let by_cancel = |id: u64, result: &pb::TaskResult| {
            result.outcome == pb::Outcome::CANCELLED.into()
                && self.tasks.get(&id).is_some_and(|it| !it.select.is_empty())
        };
        let strange =
            settled.iter().filter(|((_, id), result)| !by_cancel(*id, result)).find(|((group, id), result)| {
                let passed = result.outcome == pb::Outcome::NOT_SELECTED.into();
                self.tasks.get(id).is_none_or(|task| is_for(task, Some(group)) == passed)
            });
        assert_eq!(strange, None, "that group had nothing to do with it, or had");
        let passed = self.results.iter().any(|result| result.outcome == pb::Outcome::NOT_SELECTED.into());
        assert!(passed, "no task was for some groups only");
    }

    /// All that is known of a task in a group.
    pub fn story(&self, group: &str, id: u64) -> String {
        let mut story = format!("\n{:?}", self.tasks.get(&id));
        for result in self.results.iter().filter(|result| result.group == group && result.task_id == id) {
            let pb::TaskResult { seq, client, attempt, outcome, ret, at, late, .. } = result;
            story += &format!("\n{at} seq {seq}: {client}, attempt {attempt}, {outcome:?}, late {late}: {ret}");
        }
        story
    }

    fn assert_attempts_do_not_go_down(&self) {
        let mut attempts: HashMap<(&str, u64), u32> = HashMap::new();
        // A DONE counts whichever attempt it is of: that of a slow worker may come when a later attempt was lost already.
        let ordered = |result: &&pb::TaskResult| result.outcome != pb::Outcome::DONE.into();
        for result in self.results.iter().filter(|r| !r.group.is_empty() && !r.late).filter(ordered) {
            let before = attempts.insert((&result.group, result.task_id), result.attempt).unwrap_or(0);
            // An operator's outcome repeats the number of the attempt before it.
            let story = || self.story(&result.group, result.task_id);
            assert!(result.attempt >= before, "attempt {before} was over already:{}", story());
        }
    }

    fn assert_what_was_confirmed_is_there(&self, witness: &Witness) {
        let told = |result: &pb::TaskResult| {
            let outcome = format!("{:?}", result.outcome.enum_value_or_default());
            (result.group.clone(), result.task_id, result.attempt, outcome, result.ret.clone())
        };
        let told: HashSet<_> = self.results.iter().map(told).collect();
        let counts = || self.results.iter().filter(|result| !result.late);
        let ended: HashSet<_> = counts().map(|it| (it.group.as_str(), it.task_id, it.attempt)).collect();
        let done = counts().filter(|it| it.outcome == pb::Outcome::DONE.into());
        let done: HashSet<_> = done.map(|it| (it.group.as_str(), it.task_id)).collect();
        for said in witness.confirmed.lock().unwrap().iter().take(self.confirmed) {
            let story = || self.story(&said.group, said.id);
            let said = (said.group.clone(), said.id, said.attempt, said.outcome.to_owned(), said.ret.clone());
            // What comes too late changes nothing, and is not kept while a log of several servers cannot be written.
            let is_over =
                ended.contains(&(said.0.as_str(), said.1, said.2)) || done.contains(&(said.0.as_str(), said.1));
            let may_be_late = witness.sees_several() && is_over;
            let is_there = may_be_late || told.contains(&said);
            assert!(is_there, "confirmed, and not in the log: {said:?}{}", story());
        }
    }

    fn assert_deliveries(&self, witness: &Witness) {
        let mut confirmed: HashMap<(&str, u64), u64> = HashMap::new();
        let said = witness.confirmed.lock().unwrap();
        for said in said.iter().filter(|said| said.outcome == "DONE") {
            let life = confirmed.entry((&said.group, said.id)).or_insert(said.life);
            *life = said.life.min(*life);
        }
        let delivered = witness.delivered.lock().unwrap();
        for one in delivered.iter() {
            let task = self.tasks.get(&one.id).unwrap_or_else(|| panic!("there is no such task: {one:?}"));
            assert_eq!((&task.task, task.timeout_ms), (&one.text, one.timeout_ms), "as of another: {one:?}");
            assert!(is_for(task, Some(&one.group)), "for somebody else: {one:?}");
            let life = confirmed.get(&(one.group.as_str(), one.id)).copied().unwrap_or(u64::MAX);
            let story = || {
                let of_it = said.iter().filter(|said| said.group == one.group && said.id == one.id);
                format!("{of_it:?}{}", self.story(&one.group, one.id), of_it = of_it.collect::<Vec<_>>())
            };
            assert!(one.life <= life, "confirmed before crash {}, and delivered again: {one:?} {}", life + 1, story());
        }
        let saw: HashSet<_> = delivered.iter().map(|one| (one.group.as_str(), one.id)).collect();
        for (group, id) in self.wanted() {
            let is_seen = saw.contains(&(group.as_str(), id)) || self.needs_no_client(&group, id);
            let story = || self.story(&group, id);
            assert!(
                is_seen || self.is_used_up(&group, id),
                "settled, and none of the workers of {group} saw it:{}",
                story()
            );
        }
    }

    /// Whether a task was given up after as many deliveries as it may have, each of which ended on the way to a client or at one that was
    /// gone: such a task may have reached nobody.
    fn is_used_up(&self, group: &str, id: u64) -> bool {
        use pb::Outcome::{EXHAUSTED, RELEASED};
        let of_task = || self.results.iter().filter(|it| it.group == group && it.task_id == id && !it.late);
        let count = |outcome: pb::Outcome| of_task().filter(|it| it.outcome == outcome.into()).count();
        let most = self.tasks.get(&id).map_or(0, |task| task.max_attempts);
        // By its number: of an attempt that was lost with one of several servers nothing need be in the ledger.
        let last = of_task().map(|it| it.attempt).max().unwrap_or(0);
        count(EXHAUSTED) == 1 && (count(RELEASED) >= MAX_DELIVERIES || (most > 0 && last >= most))
    }
}

impl Ledger {
    /// Of the group whose workers say when they begin: each attempt that counts was begun, and each that came to an end counts.
    fn assert_what_is_spent_was_begun(&self, witness: &Witness) {
        let (begun, said) = (witness.begun.lock().unwrap(), witness.confirmed.lock().unwrap());
        let late: HashSet<_> = self.results.iter().filter(|r| r.late).map(|r| (r.group.as_str(), &r.ret)).collect();
        let mut begins: HashMap<u64, Vec<u64>> = HashMap::new();
        begun.iter().filter(|one| one.group == CAREFUL).for_each(|one| begins.entry(one.id).or_default().push(one.at));
        let mut retries: HashMap<u64, Vec<&Confirmed>> = HashMap::new();
        let counts = |said: &&Confirmed| said.outcome == "RETRY" && !late.contains(&(CAREFUL, &said.ret));
        for said in said.iter().filter(|said| said.group == CAREFUL).filter(counts) {
            retries.entry(said.id).or_default().push(said);
        }
        let delivered = witness.delivered.lock().unwrap();
        for one in delivered.iter().filter(|one| one.group == CAREFUL) {
            let begun = begins.get(&one.id).map_or(0, |at| at.iter().filter(|at| **at < one.at).count());
            assert!(one.spent as usize <= begun, "begun {begun} times: {one:?}{}", self.story(CAREFUL, one.id));
            // Over a stream that outlives a server that led comes what that one gave out, though another one has heard of an attempt since.
            let is_known = |said: &Confirmed| {
                if witness.sees_several() { said.at < one.opened } else { said.at < one.at && said.life <= one.life }
            };
            let before = |said: &&&Confirmed| is_known(said) && said.attempt < one.attempt;
            // The number of a delivery that was forgotten is used again.
            let tried = retries.get(&one.id).into_iter().flatten().filter(before);
            let retried = tried.map(|said| said.attempt).collect::<HashSet<_>>().len();
            assert!(one.spent as usize >= retried, "tried {retried} times: {one:?}{}", self.story(CAREFUL, one.id));
        }
    }

    /// A task over which its clients fall silent is given up when that happened so often; those that were with it are not.
    fn assert_poison_alone_is_given_up(&self, witness: &Witness) {
        let begun: HashSet<u64> = witness.begun.lock().unwrap().iter().map(|one| one.id).collect();
        let given_up = |result: &&pb::TaskResult| result.outcome == pb::Outcome::EXHAUSTED.into();
        let of_careful = || self.results.iter().filter(|result| result.group == CAREFUL && !result.late);
        let given_up: BTreeSet<u64> = of_careful().filter(given_up).map(|result| result.task_id).collect();
        let is_poison = |id: u64| is_poison(id) && !self.needs_no_client(CAREFUL, id);
        let wanted = self.wanted().filter(|(group, id)| group == CAREFUL && is_poison(*id));
        let wanted: BTreeSet<u64> = wanted.map(|(_, id)| id).collect();
        let stories = given_up.symmetric_difference(&wanted).map(|id| self.story(CAREFUL, *id)).collect::<String>();
        assert_eq!(given_up, wanted, "who is given up, and who is to be:{stories}");
        for id in given_up {
            let released =
                |result: &&pb::TaskResult| result.task_id == id && result.outcome == pb::Outcome::RELEASED.into();
            let silent = of_careful().filter(released).count();
            assert!(silent >= MAX_DELIVERIES, "{silent} deliveries:{}", self.story(CAREFUL, id));
            assert!(!begun.contains(&id));
        }
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger { tasks, groups, results, runs, .. } = self;
        write!(f, "{} tasks, {} groups, {} runs, {} results", tasks.len(), groups.len(), runs.len(), results.len())
    }
}

pub fn settles(result: &pb::TaskResult) -> bool {
    use pb::Outcome::{CANCELLED, DONE, EXHAUSTED, EXPIRED, FAILED, NOT_SELECTED};
    let outcome = result.outcome.enum_value().unwrap();
    !result.late && matches!(outcome, DONE | FAILED | EXHAUSTED | EXPIRED | CANCELLED | NOT_SELECTED)
}
