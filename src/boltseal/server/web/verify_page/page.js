import {checkEntry, checkReceipt, DIFFERS, HOLDS, MAX_RECEIPT_BYTES, UNKNOWN} from "../static/proof.js";

/* The form of verify.html */

const HEADINGS = {[HOLDS]: "Holds", [DIFFERS]: "Differs"};
const field = (id) => document.getElementById(id);
const typed = (id) => field(id).value.trim();

function show({outcome, sentence}) {
  const result = field("result"), heading = document.createElement("strong");
  heading.textContent = HEADINGS[outcome] ?? "Could not check";
  result.dataset.outcome = outcome;
  result.replaceChildren(heading, `: ${sentence}`);
}

/** Return the address of a registry's ledger; null if the registry's address is not valid. */
function ledgerOf(registry) {
  try {
    const address = new URL(registry.includes("://") ? registry : `https://${registry}`);
    return ["http:", "https:"].includes(address.protocol) ? new URL("/ledger/", address) : null;
  } catch {
    return null;
  }
}

async function check() {
  const expected = {repository: typed("repository"), tag: typed("tag"), digest: typed("digest")};
  const key = typed("key"), registry = typed("registry"), file = field("receipt").files[0];
  const receipt = file === undefined ? null : new Uint8Array(await file.slice(0, MAX_RECEIPT_BYTES + 1).arrayBuffer());
  const couldNotCheck = (sentence) => ({outcome: UNKNOWN, sentence});
  if (registry === "" && receipt === null) {
    return couldNotCheck("Choose a receipt, or type the address of the registry.");
  }
  if (receipt !== null) {
    const offline = await checkReceipt(receipt, key, expected);
    if (registry === "" || offline.outcome !== HOLDS) {
      return offline;
    }
    return checkAt(registry, key, offline.index, expected, receipt);
  }
  return /^[0-9]{1,15}$/.test(typed("entry"))
    ? checkAt(registry, key, Number(typed("entry")), expected, null)
    : couldNotCheck("Type the number of the entry, or choose a receipt.");
}

function checkAt(registry, key, index, expected, receipt) {
  const ledger = ledgerOf(registry);
  return ledger === null
    ? {outcome: UNKNOWN, sentence: "The address of the registry is not valid; expected such as https://reg.example."}
    : checkEntry({ledger, key, index, expected, receipt});
}

field("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  field("result").replaceChildren("Checking ...");
  delete field("result").dataset.outcome;
  let result;
  try {
    result = await check();
  } catch {
    result = {outcome: UNKNOWN, sentence: "The receipt cannot be read."};
  }
  show(result);
});
