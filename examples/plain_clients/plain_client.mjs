// Asks for a run and waits for its end, with kafkajs. Nothing of Penstock is needed.
//
//   node plain_client.mjs localhost:9092 greet order-4711 '{"name": "Ada"}'

import { Kafka } from "kafkajs";

const PATIENCE_MS = 120_000;
const [servers, workflow, runId, input] = process.argv.slice(2);
const kafka = new Kafka({ clientId: "plain-client", brokers: [servers] });
const consumer = kafka.consumer({ groupId: `plain-client-${runId}` });
const producer = kafka.producer();

const timer = setTimeout(() => {
  console.error(`no run.finished for ${runId}`);
  process.exit(1);
}, PATIENCE_MS);

await Promise.all([consumer.connect(), producer.connect()]);
await consumer.subscribe({ topic: "penstock.run.finished.v1", fromBeginning: false });
const joined = new Promise((resolve) => consumer.on(consumer.events.GROUP_JOIN, resolve));
const end = new Promise((resolve) => {
  consumer.run({
    eachMessage: async ({ message }) => {
      const body = message.value.toString();
      if (JSON.parse(body).run_id === runId) resolve(body);
    },
  });
});

await joined; // look for the end before asking, so that nothing is missed
await producer.send({
  topic: "penstock.run.requested.v1",
  messages: [{ value: JSON.stringify({ workflow, run_id: runId, input: JSON.parse(input) }) }],
});
console.log(await end);
clearTimeout(timer);
await Promise.all([consumer.disconnect(), producer.disconnect()]);
