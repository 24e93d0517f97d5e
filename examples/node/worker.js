// A worker of Contact, from the proto alone: what docs/protocol.md asks of a client.
//
//     npm ci && node worker.js 127.0.0.1:50051 worker-1 workers
'use strict';
const { randomUUID } = require('node:crypto');
const { join } = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const [ADDRESS, CLIENT, GROUP] = process.argv.slice(2);
const AT_ONCE = 4, RENEW_MS = 10_000, MOST_BACKOFF_MS = 30_000;
// Ids have 64 bits, which numbers of JavaScript have not.
const { Contact } = grpc.loadPackageDefinition(
  loadSync(join(__dirname, '../../proto/contact.proto'), { defaults: true, enums: String, longs: String }));
const contact = new Contact(ADDRESS, grpc.credentials.createInsecure(), {
  'grpc.keepalive_time_ms': 20_000, 'grpc.max_reconnect_backoff_ms': 5_000 });
const metadata = new grpc.Metadata({ waitForReady: true });
for (const [key, value] of Object.entries({ client: encodeURIComponent(CLIENT), group: encodeURIComponent(GROUP), instance: randomUUID(),
  window: `${AT_ONCE}`, receipts: '1', heartbeat: '15' })) metadata.set(`contact-${key}`, value);
const FINAL = ['INVALID_ARGUMENT', 'NOT_FOUND', 'UNIMPLEMENTED', 'ABORTED'].map((code) => grpc.status[code]);
const inHand = new Map();  // The newest delivery of each task, by its id.
let reported = Promise.resolve();
let renewal;  // The one that was not answered yet.

async function handle(text) {  // The work. What it returns is the result; an exception puts the task back.
  return text.toUpperCase();
}

async function untilAnswered(call) {
  let backoff = 1_000;
  for (;;) {
    try {
      return await call(() => { backoff = 1_000; });
    } catch (error) {
      // A Contact server said so, and not a proxy.
      if (FINAL.includes(error.code) && error.metadata?.get('grpc-status-details-bin').length) throw error;
      await sleep(backoff * (0.5 + Math.random() / 2));
      backoff = Math.min(backoff * 2, MOST_BACKOFF_MS);
    }
  }
}

function tellResult(results) {
  return new Promise((resolve, reject) => {
    const call = contact.tellResult(metadata, (error) => (error ? reject(error) : resolve()));
    for (const result of results) call.write(result);
    call.end();
  });
}

// One call after another: no WORKING may follow the result of its task. Later calls say what is then in hand.
function report(results, finished) {
  reported = reported.then(() => untilAnswered(() => tellResult(results())))
    .catch((error) => console.error('refused:', error.details ?? error))
    .then(() => inHand.delete(finished));
  return reported;
}

function result(id, said) {
  const { attempt, receipt } = inHand.get(id);
  return { id, attempt, receipt, ...said };
}

async function work({ id, task }) {
  const said = await handle(task).then(
    (ret) => ({ outcome: 'DONE', ret }),
    (error) => ({ outcome: 'RETRY', ret: `${error}`, delayMs: 1_000 }));
  report(() => [result(id, said)], id);
}

function renew() {
  renewal ??= report(() => [...inHand.keys()].map((id) => result(id, { outcome: 'WORKING' }))).then(() => { renewal = undefined; });
}

async function takeTasks(answered) {
  renew();  // First of all the server hears what is still in hand, and so gives it to nobody else.
  for await (const message of contact.getTask({}, metadata)) {
    answered();
    if (message.id === '0') continue;  // A heartbeat.
    const begun = inHand.has(message.id);
    inHand.set(message.id, message);
    if (!begun) work(message);
  }
  throw new Error('the server ended getTask');
}

setInterval(renew, RENEW_MS);
untilAnswered(takeTasks).catch((error) => {
  console.error(error.details ?? error);
  process.exit(1);
});
