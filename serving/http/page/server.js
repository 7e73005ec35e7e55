"use strict";
const $ = id => document.getElementById(id);

// Asks the server. Addresses are relative to the page's own, so that a proxy may serve both anywhere.
const BASE = location.pathname.replace(/\/?$/, "/");
const AT_ONCE = 4;  // predictions
const TRIES = 6;  // of a prediction that is refused with 503 and the time to come back
const LONGEST_WAIT_S = 60;
const PATIENCE_MS = 120_000;

let token = "";  // in memory only
let holds = 0;  // how many refusals have asked to wait and are not over
let free = AT_ONCE;
const waiting = [];  // what runs next, first come first served

class Problem extends Error {
  constructor(message, status = 0, retryAfterS = 0) {
    super(message);
    Object.assign(this, { status, retryAfterS });
  }
}

// The JSON that the server answers. Everything else is a Problem whose message a person may read.
async function call(path, init = {}) {
  const headers = token ? { ...init.headers, Authorization: `Bearer ${token}` } : init.headers;
  let reply, text;
  try {
    reply = await fetch(BASE + path, { ...init, headers });
    text = await reply.text();
  } catch (error) {
    if (init.signal?.aborted) throw init.signal.reason;
    throw new Problem("The server cannot be reached: it has stopped, or the network is gone.");
  }
  const said = parsed(text);
  if (reply.ok && said) return said;
  if (reply.status >= 400 && said?.detail) {
    throw new Problem(`${said.title} – ${said.detail}`, reply.status, secondsUntil(reply.headers.get("Retry-After")));
  }
  const kind = reply.headers.get("Content-Type")?.split(";")[0] || "nothing";
  throw new Problem(
    `Something between this page and the server answered ${reply.status} ${reply.statusText}`.trim() +
    ` with ${kind} in place of the server's JSON.`, reply.status,
    secondsUntil(reply.headers.get("Retry-After")));
}

function parsed(text) {
  try {
    const said = JSON.parse(text);
    return said && typeof said === "object" ? said : null;
  } catch {
    return null;
  }
}

// Retry-After is a number of seconds or a date (RFC 9110, 10.2.3); 0 where there is none.
function secondsUntil(retryAfter) {
  const seconds = /^\d+$/.test(retryAfter) ? Number(retryAfter) : (Date.parse(retryAfter) - Date.now()) / 1000;
  return Math.min(LONGEST_WAIT_S, Math.max(0, seconds || 0));
}

// What the server says of one file, when its turn has come; `tell` hears in words how far it is.
async function predict(file, query, signal, tell) {
  const init = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
  tell("Waiting…");
  for (let tries = 1; ; tries++) {
    await turn(tries > 1);
    try {
      signal.throwIfAborted();
      tell("Asking…");
      const bounded = AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)]);
      return await call(`predict?${query}`, { ...init, signal: bounded });
    } catch (error) {
      if (error.name === "TimeoutError") throw new Problem(`No answer within ${PATIENCE_MS / 1000} s.`);
      if (!error.status && error instanceof Problem) await checkReadable(file);
      if (error.status !== 503 || !error.retryAfterS || tries === TRIES) throw error;
      hold(error.retryAfterS);
      tell(`The server is busy; asking again in ${Math.ceil(error.retryAfterS)} s.`);
    } finally {
      free++;
      admit();
    }
  }
}

// A file that was moved or changed since looks to `fetch` like a server that is gone.
async function checkReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("The file can no longer be read: it was moved or changed. Choose it again.");
  }
}

function turn(first) {
  return new Promise(start => {
    first ? waiting.unshift(start) : waiting.push(start);
    admit();
  });
}

function admit() {
  while (!holds && free && waiting.length) {
    free--;
    waiting.shift()();
  }
}

function hold(seconds) {
  holds++;
  setTimeout(() => { holds--; admit(); }, 1000 * seconds);
}
