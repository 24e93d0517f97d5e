//! One that works beside an attack, and what it feels of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::server::Server;
use crate::rig::{Client, Operator, done, to};

/// Its group, to tell what it does from what others do.
pub const GROUP: &str = "bystanders";
/// A task takes it some milliseconds. Two cores run attacks, server and other tests, so it may take a hundred times as long, and some
/// tasks longer; who is held up by an attack waits until a deadline.
const MEDIAN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(20);

/// Submits a task, is given it, and says that it is done, again and again.
pub struct Bystander {
    over: Arc<AtomicBool>,
    working: JoinHandle<Vec<Duration>>,
}

impl Bystander {
    /// Over connections of its own. It has done its first task when this returns.
    #[track_caller]
    pub fn of(server: &Server) -> Bystander {
        let operator = Operator::of(&server.control);
        let client = Client::of(&server.listen, &[("contact-client", "bystander"), ("contact-group", GROUP)]);
        let mut tasks = client.tasks();
        Bystander::doing(move || {
            operator.submit_all(vec![to(GROUP, "a task")]);
            let task = tasks.next();
            client.tell([done(&task)]);
        })
    }

    /// One that does this again and again.
    #[track_caller]
    pub fn doing(mut round: impl FnMut() + Send + 'static) -> Bystander {
        round();
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let working = thread::spawn(move || {
            let mut took = Vec::new();
            while took.is_empty() || !until.load(Ordering::SeqCst) {
                let began = Instant::now();
                round();
                took.push(began.elapsed());
            }
            took
        });
        Bystander { over, working }
    }

    /// Ends it. It went on all the time, and not much slower.
    #[track_caller]
    pub fn felt_little(self, of: &str) {
        self.waited(of, MEDIAN);
    }

    /// Ends it. It went on all the time, and a task took it so long at most, as the median.
    #[track_caller]
    pub fn waited(self, of: &str, most: Duration) {
        self.over.store(true, Ordering::SeqCst);
        let mut took = self.working.join().unwrap_or_else(|_| panic!("{of}: others are not served any more"));
        took.sort();
        let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
        println!("{of}: {} tasks of others, {median:?} each, {longest:?} at most", took.len());
        assert!(median < most && longest < LONGEST, "{of}: a task takes others {median:?}, {longest:?} at most");
    }
}
