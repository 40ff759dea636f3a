/* Checks that a ledger has an entry about a tag, in a browser, without any other code.

   checkReceipt     a receipt (C2SP tlog-proof), which has everything in one file
   checkEntry       an entry of a ledger over HTTP: its checkpoint, its tiles, the entry (C2SP tlog-checkpoint, tlog-tiles)

   Each returns {outcome, sentence, entry}; entry is null unless the outcome is "holds", which also has index and size. Outcomes:

   holds      every step passed, with the key that the caller gave
   differs    what was received proves no such entry: altered, malformed, of another key, or about another tag or digest
   unknown    could not check: no answer, an answer that is too long or too late, or a browser without Ed25519

   The rules are those of `boltseal.ledger` (note, checkpoint, entry, proof, tiles), and of `boltseal ledger receipt verify`.
   The key must come from the operator by another way: a key from beside the entry proves nothing. */

export const HOLDS = "holds", DIFFERS = "differs", UNKNOWN = "unknown";

export const MAX_RECEIPT_BYTES = 1200000;
const MAX_NOTE_BYTES = 1000000, MAX_ENTRY_BYTES = 65535, MAX_SIGNATURES = 100;
const HASH_BYTES = 32, TILE_LEVELS = 8, TILE_WIDTH = 256, MAX_TILES = 40;
const REQUEST_MS = 15000, CHECK_MS = 60000;
const RECEIPT_HEADER = "c2sp.org/tlog-proof@v1";
const ED25519 = 1;

/** What was received proves nothing, or something else. */
class Differs extends Error {}

/** The check could not be made. */
class CouldNotCheck extends Error {}

/* Text, bytes, hashes */

const utf8 = new TextEncoder();

function textOf(bytes, what) {
  try {
    return new TextDecoder("utf-8", {fatal: true, ignoreBOM: true}).decode(bytes);
  } catch {
    throw new Differs(`${what} is not UTF-8`);
  }
}

/** Decode standard base64 in its canonical form; null for any other text. */
function fromBase64(text) {
  try {
    const data = atob(text);
    return btoa(data) === text ? Uint8Array.from(data, (character) => character.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

/** Return a received text for a sentence: short, and without characters that change how the rest of it is shown. */
function quote(text) {
  const plain = text.replace(/[^ -~]/g, "?");
  return `"${plain.length > 90 ? `${plain.slice(0, 87)}...` : plain}"`;
}

function concat(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function equal(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", concat(...parts)));
}

const leafHash = (entry) => sha256([0], entry);
const nodeHash = (left, right) => sha256([1], left, right);

/* Keys and signed notes */

const NAME = /^[^+\u0000-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/;

async function keyId(name, typedKey) {
  return (await sha256(utf8.encode(`${name}\n`), typedKey)).slice(0, 4);
}

/** Parse `name+id+key`, as `boltseal ledger key` prints it. */
async function parseKey(text) {
  const match = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(text.trim());
  const typed = match && NAME.test(match[1]) ? fromBase64(match[3]) : null;
  if (typed === null || typed.length !== 1 + HASH_BYTES || typed[0] !== ED25519) {
    throw new CouldNotCheck("the key is not the key of a ledger; expected name+8 hex digits+base64");
  }
  const id = await keyId(match[1], typed);
  if (hex(id) !== match[2]) {
    throw new CouldNotCheck("the key is damaged: its ID does not belong to it");
  }
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", typed.slice(1), {name: "Ed25519"}, false, ["verify"]);
  } catch {
    throw new CouldNotCheck("this browser cannot verify Ed25519 signatures, or refuses the key");
  }
  return {name: match[1], id, imported};
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function parseSignature(line) {
  const space = line.indexOf(" ", 2);
  const name = line.slice(2, space);
  const value = space > 2 ? fromBase64(line.slice(space + 1)) : null;
  if (!line.startsWith("\u2014 ") || !NAME.test(name) || value === null || value.length <= 4) {
    throw new Differs(`${quote(line)} is not a signature line`);
  }
  return {name, id: value.slice(0, 4), value: value.slice(4)};
}

/** Return the text of a note after every signature by the key in it was verified; there must be one. */
async function openNote(bytes, key) {
  if (bytes.length > MAX_NOTE_BYTES) {
    throw new Differs("the checkpoint is too long");
  }
  const whole = textOf(bytes, "the checkpoint");
  const blank = whole.lastIndexOf("\n\n");
  if (blank < 0 || blank + 2 >= whole.length || !whole.endsWith("\n")) {
    throw new Differs("the checkpoint is not a signed note, or it is cut off");
  }
  const text = whole.slice(0, blank + 1);
  if (/[\u0000-\u0009\u000b-\u001f]/.test(text)) {
    throw new Differs("the checkpoint has control characters");
  }
  const lines = whole.slice(blank + 2, -1).split("\n");
  if (lines.length > MAX_SIGNATURES) {
    throw new Differs("the checkpoint has too many signatures");
  }
  const signatures = lines.map(parseSignature);
  const ours = signatures.filter((each) => each.name === key.name && equal(each.id, key.id));
  if (ours.length === 0) {
    throw new Differs("the given key did not sign the checkpoint");
  }
  for (const {value} of ours) {
    let valid = false;
    try {
      valid = await crypto.subtle.verify({name: "Ed25519"}, key.imported, value, utf8.encode(text));
    } catch {
      throw new CouldNotCheck("this browser cannot verify Ed25519 signatures");
    }
    if (valid !== true) {
      throw new Differs("the signature of the checkpoint is not valid");
    }
  }
  return text;
}

/* Checkpoints */

/** Return a number of entries or an index; null for any other text. Larger numbers than JavaScript has are refused. */
function parseCount(text) {
  const count = /^(0|[1-9][0-9]{0,18})$/.test(text) ? Number(text) : NaN;
  return Number.isSafeInteger(count) ? count : null;
}

/** Return {origin, size, root} of a checkpoint that the key signed. */
async function openCheckpoint(bytes, key) {
  const lines = (await openNote(bytes, key)).split("\n");
  lines.pop();
  if (lines.length < 3 || lines.some((line) => line === "")) {
    throw new Differs("the signed note is not a checkpoint");
  }
  const [origin, sizeText, rootText] = lines;
  const size = parseCount(sizeText), root = fromBase64(rootText);
  if (size === null || root === null || root.length !== HASH_BYTES) {
    throw new Differs("the signed note is not a checkpoint");
  }
  if (origin !== key.name) {
    throw new Differs(`the checkpoint is of the ledger ${quote(origin)}, the key of ${quote(key.name)}`);
  }
  return {origin, size, root};
}

/* Entries: one line of JSON, which has exactly one valid form */

const KEYS = "v kind time registry repository tag digest type size was previous actor reason salt extra".split(" ");
const RESOLVING = ["tag.created", "tag.moved", "tag.sealed", "tag.unsealed", "tag.restored", "observed", "accepted"];
const REMOVING = ["tag.deleted", "tag.purged", "tag.expired"];
const OTHERS = [
  "log.started", "rules.changed", "key.rotated", "key.announced", "recovered", "held", "built", "rebuild.requested", "released",
];
const PART = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const REPOSITORY = new RegExp(`^${PART}(?:/${PART})*$`);
const TAG = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/u;

/** Parse an entry. Refuses every text that a registry would write differently. */
function parseEntry(bytes) {
  if (bytes.length > MAX_ENTRY_BYTES) {
    throw new Differs("the entry is too long");
  }
  const text = textOf(bytes, "the entry");
  let entry;
  try {
    entry = JSON.parse(text);
  } catch {
    throw new Differs("the entry is not JSON");
  }
  if (!isEntry(entry) || `${JSON.stringify(entry)}\n` !== text) {
    throw new Differs("the entry is not one that a registry writes");
  }
  return entry;
}

function isEntry(entry) {
  if (!isObject(entry) || Object.keys(entry).join(" ") !== KEYS.join(" ") || !isObject(entry.extra)) {
    return false;
  }
  const {v, size, previous, extra, ...texts} = entry;
  const extraKeys = Object.keys(extra), shown = [entry.actor, entry.reason, ...Object.values(extra)];
  return v === 1
    && Object.values(texts).every((value) => typeof value === "string")
    && [...RESOLVING, ...REMOVING, ...OTHERS].includes(entry.kind)
    && isTime(entry.time)
    && /^[!-*,-~]{1,255}$/.test(entry.registry)
    && isNamed(entry)
    && [entry.digest, entry.was].every((digest) => digest === "" || DIGEST.test(digest))
    && /^[!-~]{0,255}$/.test(entry.type)
    && Number.isSafeInteger(size) && size >= 0
    && Number.isSafeInteger(previous) && previous >= -1
    && /^[0-9a-f]{32}$/.test(entry.salt)
    && shown.every((value) => typeof value === "string" && !UNPRINTABLE.test(value))
    && extraKeys.every((key) => /^[a-z][a-z0-9_.-]{0,63}$/.test(key))
    && extraKeys.join(" ") === [...extraKeys].sort().join(" ");
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTime(text) {
  const match = /^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3})[0-9]{3}Z$/.exec(text);
  const moment = match && new Date(`${match[1]}Z`);
  return moment !== null && moment.getTime() >= 0 && moment.toISOString() === `${match[1]}Z`;
}

/** Return whether an entry has the repository and tag that its kind needs, each in the grammar of OCI. */
function isNamed({kind, repository, tag, digest}) {
  const changes = kind.startsWith("tag.");
  if (repository === "") {
    return tag === "" && !changes;
  }
  const mayLackTag = !changes || (["tag.deleted", "tag.purged"].includes(kind) && digest !== "");
  return repository.length <= 255 && REPOSITORY.test(repository) && (tag === "" ? mayLackTag : TAG.test(tag));
}

/* The tree: RFC 6962 */

/** Return the siblings of an entry from the leaf up: {left, start, end}, the entries below each. */
function stepsToEntry(index, size) {
  const steps = [];
  let start = 0, end = size;
  while (end - start > 1) {
    const middle = start + largestPowerBelow(end - start);
    if (index < middle) {
      steps.unshift({left: false, start: middle, end});
      end = middle;
    } else {
      steps.unshift({left: true, start, end: middle});
      start = middle;
    }
  }
  return steps;
}

function largestPowerBelow(length) {
  let power = 1;
  while (power * 2 < length) {
    power *= 2;
  }
  return power;
}

/** Check that an entry is in the tree of a checkpoint. `siblings`: one hash for each step. */
async function checkInclusion(entryBytes, index, siblings, {size, root}) {
  if (!(index < size)) {
    throw new Differs(`entry ${index} is not in a ledger of ${size} entries`);
  }
  const steps = stepsToEntry(index, size);
  if (siblings.length !== steps.length) {
    throw new Differs(`the proof has ${siblings.length} hashes; expected ${steps.length}`);
  }
  let hash = await leafHash(entryBytes);
  for (const [at, step] of steps.entries()) {
    hash = step.left ? await nodeHash(siblings[at], hash) : await nodeHash(hash, siblings[at]);
  }
  if (!equal(hash, root)) {
    throw new Differs(`the hashes do not lead from entry ${index} to the signed root of ${size} entries`);
  }
}

/** Return the complete subtrees that make up the entries [start, end): {level, offset}. */
function subtrees(start, end) {
  const nodes = [];
  while (start < end) {
    let level = 0;
    while (2 ** (level + 1) <= end - start) {
      level += 1;
    }
    nodes.push({level, offset: start / 2 ** level});
    start += 2 ** level;
  }
  return nodes;
}

/** Return where the hash of a subtree comes from: the path of its tile, the tile's width, and a range of hashes in it. */
function tileOf({level, offset}, size) {
  const tileLevel = Math.floor(level / TILE_LEVELS), above = level % TILE_LEVELS;
  const first = offset * 2 ** above;
  const index = Math.floor(first / TILE_WIDTH);
  const width = Math.min(Math.floor(size / 2 ** (TILE_LEVELS * tileLevel)) - index * TILE_WIDTH, TILE_WIDTH);
  let place = String(index % 1000).padStart(3, "0");
  for (let rest = Math.floor(index / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    place = `x${String(rest % 1000).padStart(3, "0")}/${place}`;
  }
  const path = `tile/${tileLevel}/${place}${width === TILE_WIDTH ? "" : `.p/${width}`}`;
  return {path, width, start: first - index * TILE_WIDTH, count: 2 ** above};
}

async function rootOf(hashes) {
  while (hashes.length > 1) {
    const above = [];
    for (let at = 0; at < hashes.length; at += 2) {
      above.push(await nodeHash(hashes[at], hashes[at + 1]));
    }
    hashes = above;
  }
  return hashes[0];
}

/** Return the siblings of an entry from tiles. `read` returns a tile's bytes by path and width. */
async function siblingsFromTiles(index, size, read) {
  const parts = stepsToEntry(index, size).map((step) => subtrees(step.start, step.end));
  const wanted = new Map(parts.flat().map((node) => tileOf(node, size)).map((tile) => [tile.path, tile.width]));
  if (wanted.size > MAX_TILES) {
    throw new CouldNotCheck(`the proof needs ${wanted.size} tiles; at most ${MAX_TILES} are read`);
  }
  const tiles = new Map(await Promise.all([...wanted].map(async ([path, width]) => [path, await read(path, width)])));
  const nodeOf = (node) => {
    const {path, start, count} = tileOf(node, size);
    const data = tiles.get(path);
    return rootOf(Array.from({length: count}, (_, at) => data.slice((start + at) * HASH_BYTES, (start + at + 1) * HASH_BYTES)));
  };
  const siblings = [];
  for (const part of parts) {
    const nodes = await Promise.all(part.map(nodeOf));
    let folded = nodes.pop();
    while (nodes.length) {
      folded = await nodeHash(nodes.pop(), folded);
    }
    siblings.push(folded);
  }
  return siblings;
}

/* Receipts */

/** Parse a receipt, without any verification. */
function parseReceipt(bytes) {
  if (bytes.length > MAX_RECEIPT_BYTES) {
    throw new Differs("the receipt is too long");
  }
  const blank = bytes.findIndex((byte, at) => byte === 10 && bytes[at + 1] === 10);
  const lines = blank < 0 ? [] : new TextDecoder("latin1").decode(bytes.slice(0, blank)).split("\n");
  if (lines.shift() !== RECEIPT_HEADER) {
    throw new Differs(`this is not a receipt: it does not begin with ${RECEIPT_HEADER}, or it is cut off`);
  }
  const extra = lines.length && lines[0].startsWith("extra ") ? fromBase64(lines.shift().slice(6)) : null;
  const index = lines.length && lines[0].startsWith("index ") ? parseCount(lines.shift().slice(6)) : null;
  const proof = lines.map(fromBase64);
  if (extra === null || index === null) {
    throw new Differs("the receipt has no entry, or no index");
  }
  if (proof.some((hash) => hash === null || hash.length !== HASH_BYTES)) {
    throw new Differs("the receipt has a line that is no hash");
  }
  return {index, extra, proof, checkpoint: bytes.slice(blank + 2)};
}

/* Requests */

/** Return a body. Throws CouldNotCheck if it has more than `limit` bytes. */
async function readBody(response, limit, what) {
  const parts = [], reader = response.body.getReader();
  let length = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) {
      return concat(...parts);
    }
    length += value.length;
    if (length > limit) {
      await reader.cancel();
      throw new CouldNotCheck(`${what}: the answer is longer than ${limit} bytes`);
    }
    parts.push(value);
  }
}

/** Return a function that reads from a ledger, at most `limit` bytes: each request within REQUEST_MS, all within CHECK_MS. */
function reader(ledger, credentials) {
  const ends = Date.now() + CHECK_MS;
  return async (path, limit, what) => {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), Math.max(0, Math.min(REQUEST_MS, ends - Date.now())));
    try {
      const response = await fetch(new URL(path, ledger), {
        credentials, cache: "no-store", redirect: "error", referrerPolicy: "no-referrer", signal: stop.signal,
      });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new CouldNotCheck(`${what}: the registry answered with status ${response.status}`);
      }
      return await readBody(response, limit, what);
    } catch (error) {
      if (error instanceof CouldNotCheck) {
        throw error;
      }
      throw new CouldNotCheck(stop.signal.aborted
        ? `${what}: the registry did not answer in time`
        : `${what}: the registry did not answer, or does not let this page read it`);
    } finally {
      clearTimeout(timer);
    }
  };
}

/* The two checks */

/** Check that an entry is one of this ledger, and says that the tag resolves to the digest. `expected`: {repository, tag, digest}. */
function checkRow(entry, origin, expected) {
  if (entry.registry !== origin) {
    throw new Differs(`the entry is of the ledger ${quote(entry.registry)}, the checkpoint of ${quote(origin)}`);
  }
  if (expected === null) {
    return;
  }
  for (const what of ["repository", "tag", "digest"]) {
    if (entry[what] !== expected[what]) {
      throw new Differs(`the entry has the ${what} ${quote(entry[what])}, not ${quote(expected[what])}`);
    }
  }
  if (!RESOLVING.includes(entry.kind)) {
    throw new Differs(`the entry is ${entry.kind}, which does not record what the tag resolves to`);
  }
}

/** Run the steps of a check, and return its result. What neither proves nor refutes is "could not check". */
async function outcomeOf(steps) {
  try {
    if (globalThis.crypto?.subtle === undefined) {
      throw new CouldNotCheck("this page has no access to cryptography; open it over https, on localhost, or from a file");
    }
    const {entry, index, size} = await steps();
    return {outcome: HOLDS, sentence: sentence(entry, index, size), entry, index, size};
  } catch (error) {
    if (error instanceof Differs) {
      return {outcome: DIFFERS, sentence: `${error.message}.`, entry: null};
    }
    const reason = error instanceof CouldNotCheck ? error.message : `this browser failed: ${quote(String(error))}`;
    return {outcome: UNKNOWN, sentence: `${reason}.`, entry: null};
  }
}

function sentence(entry, index, size) {
  const subject = entry.tag ? `${entry.repository}:${entry.tag}` : entry.repository || "the ledger";
  const digest = entry.digest ? ` with ${entry.digest}` : "";
  const later = entry.extra.mode === "sealed" && RESOLVING.includes(entry.kind)
    ? "The tag is sealed: no later entry can give it another digest."
    : "A later entry may record something else.";
  return `Entry ${index} of the ledger ${entry.registry} (${size} entries) is ${entry.kind} of ${subject}${digest}, at ${entry.time}. ${later}`;
}

/** Check a receipt, offline.
 *
 *  1. It is a receipt, and has an entry. 2. The key signed its checkpoint. 3. The entry is canonical, of this ledger, and says
 *  what is expected. 4. Its proof leads from the entry to the checkpoint's root. `expected`: {repository, tag, digest} or null.
 */
export function checkReceipt(bytes, keyText, expected = null) {
  return outcomeOf(async () => {
    const key = await parseKey(keyText);
    const {index, extra, proof, checkpoint} = parseReceipt(bytes);
    const head = await openCheckpoint(checkpoint, key);
    const entry = parseEntry(extra);
    checkRow(entry, head.origin, expected);
    await checkInclusion(extra, index, proof, head);
    return {entry, index, size: head.size};
  });
}

/** Check that a ledger has the entry `index` now, and that it says what is expected.
 *
 *  1. The key signed the checkpoint. 2. The entry is canonical, of this ledger, and says what is expected. 3. The tiles that are
 *  fetched lead from the entry to the checkpoint's root.
 *
 *  `ledger`: the absolute address, with a slash at its end. `expected`: {repository, tag, digest}. `receipt`: bytes that have
 *  the entry; without them it is fetched. `credentials`: of `fetch`.
 */
export function checkEntry({ledger, key: keyText, index, expected, receipt = null, credentials = "omit"}) {
  return outcomeOf(async () => {
    if (!Number.isSafeInteger(index) || index < 0) {
      throw new CouldNotCheck("the number of the entry is not a number");
    }
    const key = await parseKey(keyText), read = reader(ledger, credentials);
    const head = await openCheckpoint(await read("checkpoint", MAX_NOTE_BYTES, "checkpoint"), key);
    if (index >= head.size) {
      throw new CouldNotCheck(`entry ${index} is not in the signed ledger of ${head.size} entries; if it is new, try again`);
    }
    const shown = parseReceipt(receipt ?? await read(`receipt/${index}`, MAX_RECEIPT_BYTES, `entry ${index}`));
    if (shown.index !== index) {
      throw new Differs(`entry ${shown.index} was shown instead of entry ${index}`);
    }
    const entry = parseEntry(shown.extra);
    checkRow(entry, head.origin, expected);
    const siblings = await siblingsFromTiles(index, head.size, async (path, width) => {
      const tile = await read(path, width * HASH_BYTES, path);
      if (tile.length !== width * HASH_BYTES) {
        throw new Differs(`${path} has ${tile.length} bytes; expected ${width * HASH_BYTES}`);
      }
      return tile;
    });
    await checkInclusion(shown.extra, index, siblings, head);
    return {entry, index, size: head.size};
  });
}
