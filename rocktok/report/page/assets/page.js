// What text.js, scales.js, notes.js and this file make is one module. Text of the log reaches the
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

// ---------------------------------------------------------------- the table of tokens

function setUpTable() {
  const body = byId("token-rows");
  const rows = [...body.rows];
  const headers = [...byId("token-table").tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = element("button", "", header.textContent);
    button.type = "button";
    header.replaceChildren(button);
    button.addEventListener("click", () => sortRows(body, rows, headers, column));
  });
  const search = byId("search");
  const onlyRocks = byId("only-rocks");
  const haystacks = rows.map((row) => haystack(row, headers));
  const filter = () => {
    const typed = search.value.toLowerCase();
    const matches = (wanted) => haystacks.map(({ words, ids }) => words.includes(wanted) || ids.includes(wanted));
    let matched = matches(typed);
    // Blanks are part of tokens; where they are part of none, they were typed by the way.
    if (typed.trim() && !matched.includes(true)) matched = matches(typed.trim());
    let left = 0;
    rows.forEach((row, index) => {
      const kept = matched[index] && (!onlyRocks?.checked || row.classList.contains("rock"));
      row.hidden = !kept;
      left += kept;
    });
    const [few, all] = [left, rows.length].map((number) => number.toLocaleString("en"));
    byId("count").textContent = `${few} of ${all} shown`;
  };
  search.addEventListener("input", filter);
  onlyRocks?.addEventListener("change", filter);
  filter();
}

/** What a search looks at: the token as shown and as written in code, words, flags; whole ids. */
function haystack(row, headers) {
  const parts = row.classList.contains("rock") ? ["rock"] : [];
  const ids = [];
  headers.forEach((header, column) => {
    const cell = row.cells[column];
    const kind = header.className;
    if (kind === "token") parts.push(cell.textContent, cell.querySelector("bdi")?.title.slice(1, -1) ?? "");
    else if (kind === "text" || kind === "flags") parts.push(cell.textContent.trim());
    else if (/_id$|^cluster$/.test(header.dataset.key)) ids.push(cell.dataset.v);
  });
  return { words: parts.join("\n").toLowerCase(), ids };
}

function sortRows(body, rows, headers, column) {
  const header = headers[column];
  const text = /token|text|flags/.test(header.className);
  const first = text || header.dataset.key.startsWith("rank") ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  headers.forEach((one) => one.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = rows.map((row, index) => {
    const cell = row.cells[column];
    const value = text ? cell.textContent : cell.dataset.v === undefined ? null : Number(cell.dataset.v);
    const absent = value === "" || (value === "–" && !cell.querySelector("bdi"));
    return { row, index, value: absent ? null : value };
  });
  keyed.sort((a, b) => {
    // What has no number comes last whichever way the others are sorted.
    const absent = (a.value === null) - (b.value === null);
    if (absent) return absent;
    const compared = a.value < b.value ? -1 : a.value > b.value ? 1 : 0;
    return sign * compared || a.index - b.index;
  });
  body.append(...keyed.map((one) => one.row));
}

// ---------------------------------------------------------------- from one part to another

function setUpLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("[data-rock], [data-find], [data-sequence]");
    if (!link) return;
    const { rock, find: wanted, sequence, position } = link.dataset;
    if (rock) {
      byId(`rock-${rock}`).open = true;
      if (byId("text")) find(Number(rock));
    } else if (wanted) {
      find(Number(wanted));
      goToFound(1);
    } else if (goTo(sequence, Number(position))) {
      event.preventDefault();
    }
  });
}

/** An address that names a rock opens it. */
function openNamed() {
  const rock = location.hash.startsWith("#rock-") ? byId(location.hash.slice(1)) : null;
  if (!rock) return;
  rock.open = true;
  rock.scrollIntoView({ behavior: "instant" });
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

document.documentElement.classList.add("js");
if (byId("token-table")) setUpTable();
if (byId("text")) setUpText();
setUpLinks();
openNamed();
addEventListener("hashchange", openNamed);
setUpSections();
