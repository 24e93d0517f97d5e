//! How the stream must be set that is the log.

use std::collections::HashMap;
use std::fmt;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use data_encoding::HEXLOWER;

use super::LONGEST_MESSAGE;
use super::jetstream::{JetStreamConfig, JetStreamError};

/// Under these names the stream's metadata has the number by which the log is known, and a secret that its servers share.
const ID: &str = "contact_log";
const SECRET: &str = "contact_secret";

pub(super) fn stream_name(config: &JetStreamConfig) -> String {
    format!("CONTACT_{}", config.cluster)
}

pub(super) fn subject(config: &JetStreamConfig) -> String {
    format!("contact.{}.log", config.cluster)
}

/// How the stream must be. Whatever it does not say is as NATS has it.
pub(super) fn wanted(config: &JetStreamConfig) -> Config {
    Config {
        name: stream_name(config),
        subjects: vec![subject(config)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        // Else it would make room by deleting tasks.
        discard: DiscardPolicy::New,
        deny_delete: true,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        metadata: HashMap::from([
            (ID.to_owned(), (rand::random::<u64>() | 1).to_string()),
            (SECRET.to_owned(), HEXLOWER.encode(&config.secret.unwrap_or_else(rand::random))),
        ]),
        ..Config::default()
    }
}

/// What the metadata of the stream says.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) id: u64,
    pub(super) secret: [u8; 16],
}

impl Identity {
    fn read(config: &Config) -> Option<Identity> {
        let secret = HEXLOWER.decode(config.metadata.get(SECRET)?.as_bytes()).ok()?;
        Some(Identity { id: config.metadata.get(ID)?.parse().ok()?, secret: secret.try_into().ok()? })
    }
}

/// Finds the stream, or makes it.
pub(super) async fn find_stream(context: &Context, config: &JetStreamConfig) -> Result<Identity, JetStreamError> {
    let cannot = |why: String| JetStreamError::Unreachable { urls: config.urls.to_string(), why };
    let wanted = wanted(config);
    let stream = match context.get_stream(&wanted.name).await {
        Ok(stream) => stream,
        Err(absent) => match context.create_stream(wanted.clone()).await {
            Ok(stream) => stream,
            // Another server may have made it just now.
            Err(error) => match context.get_stream(&wanted.name).await {
                Ok(stream) => stream,
                Err(_) => {
                    return Err(cannot(format!(
                        "the stream {} is not there ({absent}), and cannot be made: {error}",
                        wanted.name
                    )));
                }
            },
        },
    };
    let found = &stream.cached_info().config;
    let mut differences = differences(found, &wanted);
    let identity = Identity::read(found);
    if identity.is_none() {
        differences.push(format!("its metadata has no {ID} or no {SECRET}, as a stream that Contact made has"));
    }
    match identity {
        Some(identity) if differences.is_empty() => Ok(identity),
        _ => Err(JetStreamError::OtherSettings { stream: wanted.name, differences: differences.join("; ") }),
    }
}

/// What is otherwise than it must be. The number of replicas may be changed with NATS's own tools.
pub(super) fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, found: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
        let (found, wanted) = (format!("{found:?}"), format!("{wanted:?}"));
        if found != wanted {
            differences.push(format!("{what} is {found} and must be {wanted}"));
        }
    };
    compare("subjects", &found.subjects, &wanted.subjects);
    compare("retention", &found.retention, &wanted.retention);
    compare("storage", &found.storage, &wanted.storage);
    compare("discard", &found.discard, &wanted.discard);
    compare("deny_delete", &found.deny_delete, &wanted.deny_delete);
    compare("deny_purge", &found.deny_purge, &wanted.deny_purge);
    compare("max_msgs", &found.max_messages, &wanted.max_messages);
    compare("max_bytes", &found.max_bytes, &wanted.max_bytes);
    compare("max_msgs_per_subject", &found.max_messages_per_subject, &wanted.max_messages_per_subject);
    compare("max_age", &found.max_age, &wanted.max_age);
    compare("no_ack", &found.no_ack, &wanted.no_ack);
    compare("sealed", &found.sealed, &wanted.sealed);
    // All who follow read it by a consumer.
    compare("max_consumers", &found.max_consumers, &wanted.max_consumers);
    compare("consumer_limits", &found.consumer_limits.is_some(), &false);
    // Acknowledged before it is written.
    let is_async = found.persist_mode == Some(PersistenceMode::Async);
    compare("an async persist_mode", &is_async, &false);
    // By these a message may take others away, go by itself, or be another one than was sent.
    compare("allow_rollup_hdrs", &found.allow_rollup, &wanted.allow_rollup);
    compare("allow_msg_ttl", &found.allow_message_ttl, &wanted.allow_message_ttl);
    compare("allow_msg_counter", &found.allow_message_counter, &wanted.allow_message_counter);
    compare("allow_msg_schedules", &found.allow_message_schedules, &wanted.allow_message_schedules);
    compare("subject_transform", &found.subject_transform.is_some(), &false);
    compare("mirror", &found.mirror.is_some(), &false);
    compare("sources", &found.sources.as_ref().is_some_and(|sources| !sources.is_empty()), &false);
    if found.max_message_size != -1 && (found.max_message_size as usize) < LONGEST_MESSAGE + 1_024 {
        compare("max_msg_size", &found.max_message_size, &-1);
    }
    differences
}
