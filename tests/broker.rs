//! The broker's state machine, as clients and operators see it.
//!
//! First what is promised, one sentence a test. At the end random lives: a model checks every step of them, and that in the
//! end, when everybody behaves, every task is settled. `cargo test` lives a few hundred; for a night's run:
//!
//! ```text
//! PROPTEST_CASES=200000 cargo test --test broker any_life
//! ```

#![allow(clippy::unwrap_used)]

#[path = "broker/model.rs"]
mod model;
#[path = "broker/ops.rs"]
mod ops;
#[path = "broker/world.rs"]
mod world;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/broker/failures.txt"))),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_life_ends_with_every_task_settled_once((config, eager, ops) in ops::life(80)) {
        ops::live(config, eager, &ops);
    }
}
