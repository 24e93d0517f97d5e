//! A client that says nothing of itself, and is given what is broadcast.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use contact::wire::contact as pb;
use contact::wire::contact_grpc::ContactClient;
use futures::StreamExt as _;
use futures::executor::block_on;
use grpcio::CallOption;

use super::witness::Witness;
use super::workers::Worker;

/// One that connects anew whenever its stream ends.
pub fn start(witness: &Arc<Witness>) -> Worker {
    let witness = witness.clone();
    let work = move || {
        while witness.is_working() {
            let channel = witness.connect(&witness.listen);
            if block_on(channel.wait_for_connected(Duration::from_millis(500))) {
                read(&witness, &ContactClient::new(channel));
            }
        }
    };
    Worker::Thread(thread::Builder::new().name("anonymous".into()).spawn(work).unwrap())
}

fn read(witness: &Witness, client: &ContactClient) {
    let Ok(mut tasks) = client.get_task(&pb::Empty::new(), CallOption::default()) else { return };
    witness.anonymous.lock().unwrap().push(Vec::new());
    while let Some(Ok(task)) = block_on(tasks.next()) {
        witness.anonymous.lock().unwrap().last_mut().unwrap().push(task.id);
    }
}
