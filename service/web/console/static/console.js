// Whatever comes from the service is put on the page as text, never as markup.

const POLL_MS = 2000;
const LATE_SECONDS = 30; // an event that waits longer than this deserves a colour

const $ = (id) => document.getElementById(id);
const grouped = (digits) => String(digits).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
const money = (text) => text.replace(/^\d+/, grouped);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

function put(id, text, className) {
  write($(id), text);
  if (className !== undefined) $(id).className = className;
}

const figure = (id, value, className = "") => put(id, value == null ? "–" : grouped(value), className);
const state = (id, ok, good, bad) => put(id, ok ? good : bad, `note state ${ok ? "ok" : "bad"}`);

// Ages go by the service's clock, whatever this computer's says.

let clockAhead = 0;

function age(iso) {
  const seconds = Math.max(0, (Date.now() - clockAhead - Date.parse(iso)) / 1000);
  if (seconds < 1) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

function when(iso) {
  const made = element("time");
  made.dateTime = iso;
  made.title = new Date(iso).toLocaleString();
  return made;
}

function tick() {
  for (const each of document.querySelectorAll("time")) write(each, age(each.dateTime));
}

// Lists are made anew only when something in them changed, so that text can be selected.

const shown = new Map();

function list(id, items, key, make) {
  $(`e-${id.replace("t-", "")}`).hidden = items.length > 0;
  const text = JSON.stringify(items);
  const before = shown.get(id);
  if (before?.text === text) return;
  shown.set(id, { text, keys: new Set(items.map(key)) });
  $(id).replaceChildren(...items.map((item) => {
    const made = make(item);
    if (before && !before.keys.has(key(item))) made.classList.add("new");
    return made;
  }));
}

function row(cells) {
  const made = element("tr");
  for (const [className, content] of Object.entries(cells)) {
    const cell = element("td", className);
    cell.append(typeof content === "string" ? element("bdi", "", content) : content);
    if (!cell.firstChild.title) cell.title = cell.textContent;
    made.append(cell);
  }
  return made;
}

const orderRow = (order) => row({
  id: order.id,
  num: money(order.amount),
  "num lines": grouped(order.lines),
  "num when": when(order.at),
});

const deadRow = (letter) => row({
  reason: letter.reason,
  order: letter.orderId ?? "–",
  details: letter.details,
  letter: letter.id,
  "num when": when(letter.at),
});

function eventItem(event) {
  const made = element("li");
  const head = element("p", "head");
  const fate = element("span", event.parked ? "bad" : "", event.parked ? "parked" : "waits ");
  if (!event.parked) fate.append(when(event.at));
  head.append(element("span", "", event.type), fate);
  const about = element("p", "", event.aggregate + (event.attempts ? `, attempts ${event.attempts}` : ""));
  made.append(head, about);
  if (event.error) made.append(element("p", "error warn", event.error));
  return made;
}

function reasonItem([reason, count], most) {
  const made = element("li");
  const bar = element("meter");
  bar.max = most;
  bar.value = count;
  bar.setAttribute("aria-label", reason);
  made.append(element("span", "", reason), element("b", "", grouped(count)), bar);
  return made;
}

let last = null;

function perSecond(process, at) {
  const seconds = last?.process.id === process.id ? (Date.parse(at) - Date.parse(last.at)) / 1000 : 0;
  return (name) => (seconds ? Math.round((process[name] - last.process[name]) / seconds) : 0);
}

function drawWay(data) {
  const { status, totals, outbox, process } = data;
  const rate = perSecond(process, data.at);
  const taking = rate("received"), publishing = rate("published");
  put("queue", data.queue);
  put("exchange", data.exchange);
  figure("waiting", data.waiting);
  state("broker", status.broker, "consuming", "not consuming");
  figure("received", process.received);
  const up = `up ${age(process.startedAt)}`;
  const repeats = process.repeated ? `repeats ${grouped(process.repeated)}` : "this process";
  put("intake", taking ? `${grouped(taking)} a second` : `${repeats}, ${up}`);
  if (totals) {
    figure("orders", totals.orders);
    figure("dead", totals.deadLetters);
  }
  const countedAgo = totals ? Date.parse(data.at) - Date.parse(totals.countedAt) : 0;
  const counted = countedAgo > 5000 ? `, counted ${age(totals.countedAt)} ago` : "";
  state("database", status.database, `answering${counted}`, "not answering");
  const late = (outbox?.oldestPendingSeconds ?? 0) > LATE_SECONDS;
  figure("pending", outbox?.pending, late ? "warn" : "");
  figure("parked", outbox?.parked, outbox?.parked ? "bad" : "");
  const oldest = outbox?.pending ? `, oldest ${Math.round(outbox.oldestPendingSeconds)} s` : "";
  state("relay", status.relay, `running${oldest}`, `stalled${oldest}`);
  figure("published", process.published);
  put("out", publishing ? `${grouped(publishing)} a second` : `this process, ${up}`);
  document.body.classList.toggle("moving", taking + publishing > 0);
}

function draw(data) {
  clockAhead = Date.now() - Date.parse(data.at);
  const { status } = data;
  const ready = status.broker && status.database && status.relay;
  put("state", ready ? "ready" : "not ready", `state ${ready ? "ok" : "bad"}`);
  document.title = ready ? "Orders" : "Not ready – Orders";
  const mode = data.mode === "embedded" ? "embedded mode, for trying it out" : "real servers";
  put("about", `${data.version} · ${mode} · ${data.broker} · ${data.database}`);
  $("send").hidden = !data.sending;
  $("how").hidden = data.sending;
  drawWay(data);
  if (data.totals) {
    const reasons = Object.entries(data.totals.reasons).sort((a, b) => b[1] - a[1]);
    list("reasons", reasons, (each) => each[0], (each) => reasonItem(each, reasons[0][1]));
  }
  if (data.latest) {
    list("t-orders", data.latest.orders, (each) => each.id, orderRow);
    list("t-dead", data.latest.deadLetters, (each) => each.id, deadRow);
    list("events", data.latest.events, (each) => each.type + each.aggregate, eventItem);
  }
  if (data.sending && !last) attempt(offer);
  trouble(status.database ? "" : "The database");
  last = data;
  tick();
}

function trouble(silent) {
  put("trouble", `${silent} does not answer. Below is what was known last.`);
  $("trouble").hidden = !silent;
  document.body.classList.toggle("stale", Boolean(silent));
}

// One request at a time, none while nobody looks.

let timer = 0;
let polling = false;

async function poll() {
  clearTimeout(timer);
  if (document.hidden || polling) return;
  polling = true;
  try {
    const answer = await fetch("console/data.json", { signal: AbortSignal.timeout(10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    draw(await answer.json());
  } catch {
    put("state", "no answer", "state bad");
    trouble("The service");
  } finally {
    polling = false;
    timer = setTimeout(poll, POLL_MS);
  }
}

async function sample() {
  return (await fetch("console/sample.json")).json();
}

async function offer() {
  $("order").value = JSON.stringify(await sample(), null, 2);
}

async function invalid() {
  const order = await sample();
  delete order.userId;
  order.totalAmount = "0.00";
  await send(JSON.stringify(order));
}

async function send(body) {
  const answer = await fetch("console/send", {
    method: "POST", headers: { "content-type": "application/json" }, body,
  });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  put("result", `Message ${told.messageId} was taken in.`, "result");
  poll();
}

async function attempt(act) {
  $("buttons").disabled = true;
  try {
    await act();
  } catch (error) {
    put("result", error.message, "result bad");
  }
  $("buttons").disabled = false;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => send($("order").value));
});
$("fresh").addEventListener("click", () => attempt(offer));
$("invalid").addEventListener("click", () => attempt(invalid));
document.addEventListener("visibilitychange", poll);
poll();
