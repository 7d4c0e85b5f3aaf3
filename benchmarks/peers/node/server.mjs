// A peer: the service as a Node author writes it, with amqplib and mysql2.
//
// One transaction per message (order and outbox row), prefetch 50; a relay that takes a batch of
// the outbox FOR UPDATE SKIP LOCKED, publishes it, waits for the confirms and marks it in one
// statement, woken by each commit. READ COMMITTED, quorum queues, mandatory, persistent: as durable
// as the Python service, on the same tables.

import { createHash, randomUUID } from "node:crypto";
import amqp from "amqplib";
import mysql from "mysql2/promise";

const env = process.env;
const INCOMING = env.INCOMING_ORDER_QUEUE;
const EXCHANGE = env.EVENTS_EXCHANGE;
const PROCESSED_KEY = "order.processed";
const PREFETCH = 50;
const POOL = 20;
const RELAY_BATCH = 200;
const POLL_MS = 1000;
const IDENTIFIER = /^[!-~]{1,255}$/;
const DECIMAL = /^(0|[1-9][0-9]*)(\.[0-9]+)?$/;

const pool = mysql.createPool({
  uri: env.DATABASE_URL.replace("mysql+aiomysql:", "mysql:"),
  connectionLimit: POOL,
  timezone: "Z",
});
pool.on("connection", (connection) => {
  connection.query("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED");
});

function decimal(value) {
  const text = typeof value === "number" ? String(value) : value;
  return typeof text === "string" && DECIMAL.test(text) ? text : null;
}

// The order in a message, or null where it is none. Amounts keep the digits they were sent with.
function orderOf(body) {
  let order;
  try {
    order = JSON.parse(body.toString("utf8"));
  } catch {
    return null;
  }
  const total = decimal(order?.totalAmount);
  const valid =
    [order?.orderId, order?.userId, order?.idempotencyKey].every(
      (each) => typeof each === "string" && IDENTIFIER.test(each),
    ) &&
    total !== null &&
    Number(total) > 0 &&
    Array.isArray(order.items) &&
    order.items.every(
      (item) =>
        typeof item?.sku === "string" &&
        Number.isInteger(item.quantity) &&
        item.quantity >= 1 &&
        decimal(item.unitPrice) !== null,
    );
  if (!valid) return null;
  const items = order.items.map((item) => ({
    sku: item.sku,
    quantity: item.quantity,
    unitPrice: decimal(item.unitPrice),
  }));
  return { orderId: order.orderId, userId: order.userId, key: order.idempotencyKey, total, items };
}

// One transaction: order and outbox row. An order that is there already is left as it is.
async function store(order) {
  const now = new Date();
  const items = JSON.stringify(order.items);
  const fingerprint = createHash("sha256")
    .update(JSON.stringify([order.orderId, order.userId, order.total, items]))
    .digest();
  const event = {
    orderId: order.orderId,
    idempotencyKey: order.key,
    status: "PROCESSED",
    processingTimestamp: now.toISOString(),
  };
  const connection = await pool.getConnection();
  try {
    await connection.beginTransaction();
    await connection.execute(
      "INSERT INTO orders (order_id, user_id, total_amount, status, idempotency_key, fingerprint," +
        " items, created_at, updated_at) VALUES (?, ?, ?, 'PROCESSED', ?, ?, ?, ?, ?)",
      [order.orderId, order.userId, order.total, order.key, fingerprint, items, now, now],
    );
    await connection.execute(
      "INSERT INTO outbox (event_id, event_type, aggregate_type, aggregate_id, exchange," +
        " routing_key, payload, content_type, headers) VALUES (?, 'OrderProcessed', 'order', ?, ?," +
        " ?, ?, 'application/json', '{}')",
      [randomUUID(), order.orderId, EXCHANGE, PROCESSED_KEY, Buffer.from(JSON.stringify(event))],
    );
    await connection.commit();
  } catch (error) {
    await connection.rollback();
    if (error.code !== "ER_DUP_ENTRY") throw error;
  } finally {
    connection.release();
  }
}

let wake = () => {};
let woken = false;

function committed() {
  woken = true;
  wake();
}

function rest() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, POLL_MS);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
    if (woken) wake();
  });
}

async function relayBatch(channel, returned) {
  const connection = await pool.getConnection();
  try {
    await connection.beginTransaction();
    const [rows] = await connection.query(
      // Named, for two relays that come by different indexes deadlock.
      "SELECT id, event_id, event_type, exchange, routing_key, payload, content_type FROM outbox" +
        " FORCE INDEX (ix_outbox_waiting)" +
        " WHERE published_at IS NULL AND parked_at IS NULL ORDER BY id LIMIT ? FOR UPDATE SKIP LOCKED",
      [RELAY_BATCH],
    );
    for (const row of rows) {
      channel.publish(row.exchange, row.routing_key, row.payload, {
        persistent: true,
        mandatory: true,
        messageId: row.event_id,
        type: row.event_type,
        contentType: row.content_type,
      });
    }
    await channel.waitForConfirms();
    const routed = rows.filter((row) => !returned.delete(row.event_id)).map((row) => row.id);
    if (routed.length) {
      await connection.query("UPDATE outbox SET published_at = UTC_TIMESTAMP(6) WHERE id IN (?)", [
        routed,
      ]);
    }
    await connection.commit();
    return routed.length;
  } catch (error) {
    await connection.rollback();
    throw error;
  } finally {
    connection.release();
  }
}

async function relay(channel, returned) {
  for (;;) {
    woken = false;
    if ((await relayBatch(channel, returned)) === 0) await rest();
  }
}

const consuming = await amqp.connect(env.MQ_URL);
const publishing = await amqp.connect(env.MQ_URL);
const incoming = await consuming.createChannel();
const outgoing = await publishing.createConfirmChannel();
const returned = new Set();
outgoing.on("return", (message) => returned.add(message.properties.messageId));

await incoming.prefetch(PREFETCH);
await incoming.consume(INCOMING, async (message) => {
  if (message === null) process.exit(1);
  const order = orderOf(message.content);
  if (order === null) return incoming.reject(message, false);
  try {
    await store(order);
    incoming.ack(message);
    committed();
  } catch (error) {
    console.error("the order comes again:", error.message);
    incoming.reject(message, true);
  }
});
relay(outgoing, returned).catch((error) => {
  console.error("the relay failed:", error);
  process.exit(1);
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
