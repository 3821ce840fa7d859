// What the scripts of this folder and this file make is one module. Text of the log reaches the
// document through textContent alone.

function byId(id) {
  return document.getElementById(id);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Show a token's pieces: a string, or [kind, text] pairs. `breaks`: lines end where they end, but
 * for a break at the very end, which stands after the token: in it, it would leave an empty box.
 */
function show(node, pieces, breaks) {
  if (typeof pieces === "string") {
    node.textContent = pieces;
    return node;
  }
  for (const [index, [kind, text]] of pieces.entries()) {
    node.append(kind ? element("span", kind, text) : text);
    if (breaks && kind === "nl" && index < pieces.length - 1) node.append("\n");
    if (breaks && kind === "tab") node.append("\t");
  }
  return node;
}

/** A token's name where no dot is painted on a blank: as `signs` of visible.py. */
function named(pieces) {
  if (typeof pieces === "string") return pieces;
  return pieces.map(([kind, text]) => (kind === "ws" ? text.replaceAll(" ", "␣") : text)).join("");
}

function format(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(2).replaceAll("-", "−");
  const digits = Math.max(0, 2 - Math.floor(Math.log10(size)));
  return value.toFixed(digits).replace("-", "−");
}

function counted(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// ---------------------------------------------------------------- the address

/** What is seen, as the address has it: #rock=277&step=100&seq=98:46, what is not usual alone. */
function addressOf() {
  const parts = [];
  if (state.rock !== null) parts.push(`rock=${state.rock}`);
  if (byId("text")) {
    const last = text.steps.length - 1;
    if (slider && state.step !== last) parts.push(`step=${text.steps[state.step]}`);
    if (state.other !== null) parts.push(`other=${text.steps[state.other]}`, `as=${state.how}`);
    if (state.key !== columns[0]?.key) parts.push(`by=${encodeURIComponent(state.key)}`);
    if (byId("scale").value !== "rank") parts.push(`scale=${byId("scale").value}`);
    if (state.at !== null) parts.push(`seq=${state.at.join(":")}`);
  }
  return parts.length ? `#${parts.join("&")}` : "";
}

/** A place as the address names it; the first log goes without saying. */
function placeOf({ id, log }, position) {
  return log ? [id, position, log] : [id, position];
}

let isReading = false;
let waiting = null;

/** Once keys and wheels rest: a browser takes so many addresses in a time. */
function writeAddressSoon() {
  if (isReading) return;
  clearTimeout(waiting);
  waiting = setTimeout(writeAddress, 150);
}

/** `push`: a place that the back button leads back from. */
function writeAddress(push = false) {
  clearTimeout(waiting);
  if (isReading) return;
  const address = addressOf();
  if (address === location.hash) return;
  const whole = location.href.split("#")[0] + address;
  history[push ? "pushState" : "replaceState"](null, "", whole);
}

/** Show what the address names. One without a name of ours leads to a section, as any does. */
function readAddress() {
  const { hash } = location;
  const older = /^#rock-(\d+)$/.exec(hash);
  if (hash && !hash.includes("=") && !older) return;
  clearTimeout(waiting);
  isReading = true;
  const named = new URLSearchParams(older ? `rock=${older[1]}` : hash.slice(1));
  const rock = named.get("rock");
  if (state.rock !== null && state.rock !== rock) foldRock();
  if (byId("text")) readText(named);
  if (rock !== null && rock !== state.rock) openRock(rock, false);
  const [, id, position, log] = /^(-?\d+):(\d+)(?::(\d+))?$/.exec(named.get("seq") ?? "") ?? [];
  if (id === undefined) state.at = null;
  else goTo(id, Number(position), Number(log ?? 0));
  isReading = false;
}

function readText(named) {
  const stepOf = (name) => {
    const step = text.steps.indexOf(Number(named.get(name)));
    return named.get(name) === null || step < 0 ? null : step;
  };
  const by = named.get("by");
  state.key = columnOf(by) ? by : columns[0]?.key;
  byId("shade").value = state.key;
  const scale = named.get("scale");
  byId("scale").value = ["linear", "log"].includes(scale) ? scale : "rank";
  if (slider) {
    setStep(stepOf("step") ?? text.steps.length - 1);
    setOther(stepOf("other"), named.get("as") === "beside" ? "beside" : "difference");
  } else rescale();
}

function setUpCopy() {
  const said = byId("copied");
  byId("copy").addEventListener("click", async () => {
    writeAddress();
    try {
      await navigator.clipboard.writeText(location.href);
      said.textContent = "copied";
    } catch {
      // Where a page from a disk may not write there, it is in the address to be copied.
      said.textContent = "the address bar has it";
    }
  });
}

// ---------------------------------------------------------------- from one part to another

function setUpLinks() {
  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const link = event.target.closest?.("[data-rock], [data-find], [data-sequence]");
    if (!link) return;
    const { rock, find: wanted, sequence, position, log = "0" } = link.dataset;
    if (rock) {
      const row = rowOf(rock);
      if (!row) return;
      event.preventDefault();
      if (!row.more) return leadTo(rock);
      const fold = row.contains(link) && row.more.classList.contains("is-open");
      if (!fold) return openRock(rock, true);
      if (state.rock === rock) foldRock();
      else unfold(row, false);
      writeAddress(true);
    } else if (wanted) {
      find(Number(wanted));
      goToFound(1);
    } else if (byId("text")) {
      event.preventDefault();
      for (const one of document.querySelectorAll(".is-current")) one.classList.remove("is-current");
      link.classList.add("is-current");
      // The place that is left is one to come back to.
      writeAddress();
      state.at = placeOf({ id: sequence, log: Number(log) }, Number(position));
      writeAddress(true);
      goTo(sequence, Number(position), Number(log));
    }
  });
}

function setUpSections() {
  const all = [...document.querySelectorAll("nav a")];
  const links = new Map(all.map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
    mark();
  }, { rootMargin: "-20% 0px -60% 0px" });
  const mark = () => {
    const ids = [...links.keys()];
    // The last section may be too short to come to where the others are looked for.
    const atEnd = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const current = atEnd ? ids.at(-1) : ids.find((id) => seen.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  links.forEach((_, id) => watch.observe(byId(id)));
  addEventListener("scroll", mark, { passive: true });
  links.get("about").addEventListener("click", drawAll);
  if (location.hash === "#about") {
    drawAll();
    byId("about").scrollIntoView({ behavior: "instant" });
  }
}

/** On paper nothing can be unfolded: notes, captions and the appendix are open there. */
function setUpPaper() {
  let opened = [];
  matchMedia("print").addEventListener("change", ({ matches }) => {
    if (matches) opened = [...document.querySelectorAll("details:is(.notes, .caption, .appendix):not([open])")];
    for (const details of opened) details.open = matches;
    if (!matches) opened = [];
  });
}

document.documentElement.classList.add("js");
if (byId("token-table")) setUpTable();
if (byId("text")) {
  setUpText();
  setUpCopy();
}
setUpLinks();
setUpPaper();
if (byId("figure-tip")) setUpFigures();
setUpSections();
if (location.hash) readAddress();
addEventListener("popstate", readAddress);
