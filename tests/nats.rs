//! JetStream as a log.

pub(crate) mod servers;

use contact::store::JetStream;

use servers::{Nats, open};

#[test]
fn a_stream_that_could_lose_tasks_is_refused_with_what_is_wrong() {
    use async_nats::jetstream::{self, stream};
    use std::time::Duration;

    type Change = fn(&mut stream::Config);
    let changes: [(&str, Change); 16] = [
        ("max_msgs is 5 and must be -1", |it| it.max_messages = 5),
        ("max_bytes is 5000000 and must be -1", |it| it.max_bytes = 5_000_000),
        ("max_msgs_per_subject is 5 and must be -1", |it| it.max_messages_per_subject = 5),
        ("max_age is 3600s and must be 0ns", |it| it.max_age = Duration::from_secs(3_600)),
        ("max_msg_size is 1000 and must be -1", |it| it.max_message_size = 1_000),
        ("max_consumers is 1 and must be -1", |it| it.max_consumers = 1),
        ("discard is Old and must be New", |it| it.discard = stream::DiscardPolicy::Old),
        ("retention is WorkQueue and must be Limits", |it| it.retention = stream::RetentionPolicy::WorkQueue),
        ("storage is Memory and must be File", |it| it.storage = stream::StorageType::Memory),
        ("deny_delete is false and must be true", |it| it.deny_delete = false),
        ("deny_purge is true and must be false", |it| it.deny_purge = true),
        ("no_ack is true and must be false", |it| it.no_ack = true),
        ("an async persist_mode is true", |it| it.persist_mode = Some(stream::PersistenceMode::Async)),
        ("allow_rollup_hdrs is true and must be false", |it| it.allow_rollup = true),
        ("allow_msg_ttl is true and must be false", |it| it.allow_message_ttl = true),
        ("contact_log", |it| it.metadata.clear()),
    ];
    let Some(nats) = Nats::one() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (said, change) in changes {
        let config = nats.config();
        // It makes the stream.
        drop(open(&config));
        runtime.block_on(async {
            let context = jetstream::new(async_nats::connect(nats.urls()).await.unwrap());
            let name = format!("CONTACT_{}", config.cluster);
            let mut stream = context.get_stream(&name).await.unwrap().cached_info().config.clone();
            context.delete_stream(&name).await.unwrap();
            change(&mut stream);
            context.create_stream(stream).await.unwrap();
        });
        let refused = JetStream::open(&config).map(|_| ()).unwrap_err();
        assert!(!refused.may_pass());
        assert!(refused.to_string().contains(said), "{said}: {refused}");
        assert_eq!(refused.to_string().matches("; ").count(), 1, "nothing else is wrong: {refused}");
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
