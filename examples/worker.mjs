// A Taskmill worker in plain Node (18 or later), without dependencies: it speaks to the API and to nothing else.
//
//   TASKMILL_API_URL=http://localhost:3000 TASKMILL_API_KEY=tm_… node examples/worker.mjs
//
// Also read: TASKMILL_QUEUES (default), QUEUE_CONCURRENCY (5), TASKMILL_DRAIN (25 seconds to finish after SIGTERM).
// Put your own functions into `handlers`; the rest is the protocol. Like every worker it may run a task twice after a
// crash, so make what a handler does safe to do again.

import { randomUUID } from "node:crypto";
import { hostname, uptime } from "node:os";

// A handler gets the task and { signal, progress, log, submit }. What it returns is the result; what it throws fails
// the run, which is tried again unless the error has `retryable = false`. `signal` is aborted when the run should stop.
const handlers = {
  async ECHO(task) {
    return task.payload;
  },
  async SUM(task, { log, progress }) {
    let sum = 0;
    for (const [index, n] of task.payload.numbers.entries()) {
      sum += n;
      progress((index + 1) / task.payload.numbers.length);
    }
    log("summed", { count: task.payload.numbers.length });
    return { sum };
  },
  async WAIT(task, { signal }) {
    await sleep(task.payload.seconds * 1000, signal);
    return "waited";
  },
  async REFUSE(task) {
    throw Object.assign(new RangeError(`no: ${task.payload.why}`), { retryable: false });
  },
};

const env = process.env;
const endpoint = `${(env.TASKMILL_API_URL ?? "http://localhost:3000").replace(/\/(graphql\/?)?$/, "")}/graphql`;
const key = env.TASKMILL_API_KEY;
const queues = (env.TASKMILL_QUEUES ?? "default").split(",").map((name) => name.trim());
const slots = Number(env.QUEUE_CONCURRENCY ?? 5);
const drain = Number(env.TASKMILL_DRAIN ?? 25) * 1000;
const worker = randomUUID(); // who this start of the worker is, for all its calls
const me = { worker, name: env.TASKMILL_WORKER_NAME ?? `node-${hostname()}`, queues, types: Object.keys(handlers) };

const AGAIN = new Set(["UNAVAILABLE", "RATE_LIMITED", "TIMEOUT", "INTERNAL"]);
const runs = new Map(); // "id fence" → run
let stopping = false;
let lease = 30_000; // milliseconds; the API tells
let free = () => {}; // called when a slot becomes free
let claiming = new AbortController();

const FENCE = 0.8; // of a lease: what could not be renewed for so long is given up
const LINES = 1000; // of one run: the API keeps no more
const now = () => uptime() * 1000; // it goes on while the machine sleeps, as leases do
const left = (run) => run.until - (1 - FENCE) * lease - now(); // milliseconds in which something may be sent for it
const say = (event, more = {}) => console.log(JSON.stringify({ event, ...more }));

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

// ---- one call ------------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(code, message, again = false, after = 0) {
    super(message);
    Object.assign(this, { code, again, after });
  }
}

async function call(field, type, selection, input, { seconds = 10, signal } = {}) {
  const query = `mutation($input: ${type}!) { ${field}(input: $input) ${selection} }`;
  const timeout = AbortSignal.timeout(Math.ceil(seconds * 1000));
  const ended = new AbortController();
  for (const one of [timeout, signal]) one?.addEventListener("abort", () => ended.abort(one.reason), { once: true });
  if (signal?.aborted) ended.abort(signal.reason);
  let response, body;
  try {
    response = await fetch(endpoint, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json", Authorization: `Bearer ${key}` },
      body: JSON.stringify({ query, variables: { input } }),
      signal: ended.signal,
    });
    body = await response.json();
  } catch (error) {
    throw new Refused("UNAVAILABLE", `${endpoint}: ${error.cause?.message ?? error.message}`, true);
  }
  const wait = Number(response.headers.get("retry-after") ?? 0) * 1000;
  if (!body.errors) return body.data[field];
  const [{ message, extensions = {} }] = body.errors;
  throw new Refused(extensions.code, message, AGAIN.has(extensions.code), wait);
}

// Every call is safe to send again as it is: with backoff and jitter, while there is time.
async function insist(time, ...args) {
  for (let tries = 1; ; tries++) {
    try {
      return await call(...args);
    } catch (error) {
      if (!error.again) throw error;
      const wait = Math.min(Math.random() * Math.min(5000, 200 * 2 ** tries), time() / 2);
      await sleep(Math.max(error.after, wait, 50)); // meanwhile a renewal may give it more time
      if (time() <= 0) throw error;
    }
  }
}

// ---- a run ---------------------------------------------------------------------------------------------------------

async function execute(run) {
  const { task, abort } = run;
  const mine = { worker, id: task.id, fence: task.fence, operationId: randomUUID() };
  const tools = {
    signal: abort.signal,
    progress: (value) => (run.progress = value),
    log: (message, fields, level = "info") =>
      ++run.said <= LINES && run.lines.push({ id: task.id, fence: task.fence, message: String(message), fields, level }),
    submit: (inputs) => insist(run.time, "submitTasks", "SubmitTasksInput", "", { ...mine, operationId: randomUUID(), inputs }),
  };
  let settle;
  try {
    if (!Object.hasOwn(handlers, task.type ?? "")) throw new Refused("UNKNOWN_TYPE", `no handler for ${task.type}`);
    const result = (await handlers[task.type](task, tools)) ?? null;
    settle = ["completeTask", "CompleteTaskInput", { result }];
  } catch (error) {
    const reason = error.code === "UNKNOWN_TYPE" ? "UNKNOWN_TYPE" : run.stop; // DRAIN or CANCELLED: it was told to stop
    settle = reason
      ? ["releaseTask", "ReleaseTaskInput", { reason, message: error.message }]
      : ["failTask", "FailTaskInput", {
          message: String(error?.message ?? error),
          errorType: error?.name ?? "Error",
          traceback: error?.stack,
          retryable: error?.retryable !== false,
        }];
  }
  try {
    while (run.lines.length && !run.lost) await flush(run);
    const [field, type, more] = settle;
    if (!run.lost) await insist(run.time, field, type, "{ state }", { ...mine, ...more });
    say("settled", { call: field, id: task.id, lost: run.lost });
  } catch (error) {
    say("not settled", { id: task.id, code: error.code, error: error.message }); // another worker will run it
  } finally {
    runs.delete(run.key);
    free();
  }
}

async function flush(run) {
  const lines = run.lines.splice(0, 500);
  if (!lines.length || run.lost) return;
  const seconds = Math.min(5, lease / 8000); // a renewal may wait for it
  await call("appendLogs", "AppendLogsInput", "", { worker, operationId: randomUUID(), lines }, { seconds }).catch((error) =>
    say("log lines are lost", { error: error.message })); // no log line is worth a run
}

function begin(task, sent, waited) {
  lease = task.leaseSeconds * 1000;
  const run = { key: `${task.id} ${task.fence}`, task, abort: new AbortController(), lines: [], said: 0 };
  run.time = () => (run.lost ? 0 : left(run));
  run.until = sent + waited * 1000 + lease;
  runs.set(run.key, run);
  return run;
}

function stop(run, reason) {
  if (run.stop) return;
  run.stop = reason;
  run.abort.abort(new Error(`the run was stopped: ${reason}`));
}

// ---- leases: renewed every quarter; one that could not be in time is given up, and nothing more is sent for it ----------

async function renew(patience) {
  const held = [...runs.values()].filter((run) => !run.lost);
  if (!held.length) return;
  const sent = now();
  const leases = held.map(({ task, progress }) => ({ id: task.id, fence: task.fence, progress }));
  const answer = await call("renewTasks", "RenewTasksInput", "{ id fence state leaseSeconds }", { worker, leases }, { seconds: patience / 1000 });
  for (const { id, fence, state, leaseSeconds } of answer) {
    if (state !== "LOST") lease = leaseSeconds * 1000;
    const run = runs.get(`${id} ${fence}`);
    if (!run) continue;
    if (state === "LOST") lose(run);
    else run.until = Math.max(run.until, sent + lease);
    if (state === "CANCELLED") stop(run, "CANCELLED");
  }
  await Promise.all(held.map(flush));
}

function lose(run) {
  run.lost = true;
  stop(run, "LOST");
}

// A quarter, and sooner after a failure: so an outage of half a lease costs nothing, wherever it falls between two of them.
async function keep() {
  for (let failed = false; ; ) {
    const last = now();
    failed = await renew(lease / (failed ? 8 : 4)).then(
      () => false,
      (error) => (say("renew failed", { error: error.message }), true),
    );
    await sleep(Math.max(lease / 30, last + lease / (failed ? 12 : 4) - now()));
  }
}

// Beside the renewals: a call that hangs must not hold up the look at the clock.
async function watch() {
  for (;;) {
    for (const run of runs.values()) if (!run.lost && left(run) <= 0) lose(run);
    await sleep(Math.min(200, lease / 20));
  }
}

// ---- claims --------------------------------------------------------------------------------------------------------

const RUN = "{ tasks { id fence queue type title payload attempt suspect leaseSeconds } waitedSeconds }";
const claim = (more, options) => call("claimTasks", "ClaimTasksInput", RUN, { ...me, slots, ...more }, options);

async function work() {
  let operationId = randomUUID();
  for (let failures = 0; !stopping; ) {
    if (runs.size >= slots) {
      await new Promise((resolve) => (free = resolve));
      continue;
    }
    const sent = now();
    const alone = runs.size === 0; // a suspect runs alone: only then its process's death says who did it
    let answer;
    try {
      const asked = { max: Math.min(slots - runs.size, 100), suspects: alone ? 1 : 0, waitSeconds: 20, operationId };
      answer = await claim(asked, { seconds: 30, signal: claiming.signal });
    } catch (error) {
      if (stopping) break;
      // A wrong key, a wrong queue: nothing that time heals. CONFLICT: this API has too many workers now.
      if (!error.again && error.code !== "CONFLICT") throw error;
      if (failures++ === 0) say("claim failed", { error: error.message });
      await sleep(Math.max(error.after, Math.random() * Math.min(5000, 200 * 2 ** failures)));
      continue; // with the same operationId: what the lost answer brought comes again
    }
    failures = 0;
    operationId = randomUUID();
    const claimed = answer.tasks.map((task) => begin(task, sent, answer.waitedSeconds));
    const suspect = claimed.find(({ task }) => task.suspect);
    if (!suspect) claimed.forEach(execute);
    else await Promise.all([execute(suspect), ...claimed.filter((run) => run !== suspect).map(release)]);
  }
  // What a claim that was broken off has brought all the same is given back unstarted.
  const sent = now();
  const late = await claim({ operationId, again: true }).catch(() => ({ tasks: [], waitedSeconds: 0 }));
  await Promise.all(late.tasks.map((task) => release(begin(task, sent, late.waitedSeconds))));
}

// Gives a task back that was not begun.
async function release(run) {
  const { id, fence } = run.task;
  await insist(run.time, "releaseTask", "ReleaseTaskInput", "{ state }", { worker, id, fence, operationId: randomUUID() })
    .catch((error) => say("not released", { id, code: error.code, error: error.message }));
  runs.delete(run.key);
  free();
}

async function shutDown(signal) {
  if (stopping) return;
  stopping = true;
  say("stopping", { signal, running: runs.size });
  claiming.abort(new Error("the worker stops"));
  free();
  for (const end = now() + drain; runs.size && now() < end; ) await sleep(20);
  for (const run of runs.values()) stop(run, "DRAIN");
  while (runs.size) await sleep(20); // a handler that does not heed its signal keeps its task until its lease is lost
  await done;
  await call("deregisterWorker", "LeaveInput", "", { worker }).catch(() => {});
  say("stopped");
  process.exit(0);
}

for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => shutDown(signal));
if (!key) {
  console.error("TASKMILL_API_KEY is not set: make a key of the role WORKER with createApiKey");
  process.exit(2);
}
const began = now();
const session = await insist(() => began + 30_000 - now(), "registerWorker", "RegisterWorkerInput", "{ leaseSeconds }", { ...me, slots });
lease = session.leaseSeconds * 1000;
say("ready", { worker, queues, types: me.types, lease });
const done = work();
keep();
watch();
await done;
