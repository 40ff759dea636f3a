/* Checks the proof of a tag on its page.

   <div data-ledger="../ledger/" data-key="name+id+key" data-repository="shop/app" data-tag="1.4.2" data-digest="sha256:..."
        data-entry="17" data-registry="reg.example">
     Could not check in this browser. Check it with: <code>boltseal ledger receipt verify ...</code>
   </div>

   `data-ledger` is relative to the page. The content that the server wrote is what people without JavaScript see; this script
   replaces it. Its result depends on code and a key of this server; `verify.html`, opened from disk, needs neither. */

import {checkEntry, DIFFERS, HOLDS} from "./proof.js";

const HEADINGS = {[HOLDS]: "Holds", [DIFFERS]: "Differs"};
const WORD = /^[A-Za-z0-9._:/+=-]+$/;

function line(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

/** Return the commands that check this tag without a browser. */
function commands({registry = "", repository, tag, key}) {
  if (![registry, repository, tag, key].every((word) => WORD.test(word))) {
    return "boltseal ledger receipt verify FILE --key KEY";
  }
  return `boltseal ledger receipt ${registry}/${repository}:${tag} -o tag.tlog-proof\n`
    + `boltseal ledger receipt verify tag.tlog-proof --key ${key}`;
}

function show(element, {outcome, sentence}) {
  const paragraph = document.createElement("p");
  paragraph.append(line("strong", HEADINGS[outcome] ?? "Could not check"), ` (checked with code from this server): ${sentence}`);
  const parts = [paragraph];
  if (outcome !== HOLDS) {
    parts.push(line("p", "Check it without this page:"), line("pre", commands(element.dataset)));
  }
  element.replaceChildren(...parts);
  element.dataset.outcome = outcome;
}

for (const element of document.querySelectorAll("[data-ledger][data-entry]")) {
  const {ledger, key = "", repository, tag, digest, entry} = element.dataset;
  element.setAttribute("role", "status");
  checkEntry({
    ledger: new URL(ledger, document.baseURI), key, index: /^[0-9]{1,15}$/.test(entry) ? Number(entry) : -1,
    expected: {repository, tag, digest}, credentials: "same-origin",
  }).then((result) => show(element, result));
}
