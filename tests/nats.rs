//! JetStream as a log.

pub(crate) mod servers;

use contact::store::JetStream;

use servers::{Nats, open};

#[test]
fn a_stream_that_could_lose_tasks_is_refused_with_what_is_wrong() {
    use async_nats::jetstream::{self, stream};

    let Some(nats) = Nats::one() else { return };
    // It listens.
    drop(open(&nats.config()));
    let config = nats.config();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(&config.urls).await.unwrap());
        let stream = stream::Config {
            name: format!("CONTACT_{}", config.cluster),
            subjects: vec![format!("contact.{}.log", config.cluster)],
            max_messages: 5,
            ..stream::Config::default()
        };
        context.create_stream(stream).await.unwrap();
    });
    let refused = JetStream::open(&config).map(|_| ()).unwrap_err();
    assert!(!refused.may_pass());
    let refused = refused.to_string();
    for said in
        ["max_msgs is 5 and must be -1", "discard is Old and must be New", "deny_delete is false", "contact_log"]
    {
        assert!(refused.contains(said), "{said}: {refused}");
    }
}

#[test]
fn on_three_servers_one_leads_and_the_other_has_all_that_it_wrote() {
    use contact::store::{Log as _, Standby, Store};
    use contact::task::NewTask;
    use futures::executor::block_on;

    let Some(nats) = Nats::three() else { return };
    let config = nats.config();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let standby = |at: usize| Standby::open(open(&config), dirs[at].path()).unwrap();
    let mut other = standby(1);
    let store = Store::with_backend(Box::new(standby(0).lead("one").unwrap())).unwrap().0;
    // One of them is longer than a message.
    for length in [1, 2_000_000, 3] {
        let task = NewTask { text: "x".repeat(length), ..NewTask::default() };
        block_on(store.handle().submit(vec![task])).unwrap();
    }
    store.close().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !other.follow(std::time::Duration::from_millis(100)).unwrap().resigned {
        assert!(std::time::Instant::now() < deadline, "it reads that the first one resigned");
    }
    let (store, recovered) = Store::with_backend(Box::new(other.lead("other").unwrap())).unwrap();
    assert_eq!(recovered.positions.task, 3);
    let tasks = store.handle().reader().unwrap().tasks_by_id(&[1, 2, 3]).unwrap();
    assert_eq!(tasks.iter().map(|task| task.spec.text.len()).collect::<Vec<_>>(), [1, 2_000_000, 3]);
    // A message that is sent behind another than the last is not taken.
    let mut log = open(&config);
    let late = log.begin(1, b"late");
    assert!(log.landed(late).is_err());
}
