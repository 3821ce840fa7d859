// ---------------------------------------------------------------- the table of tokens

function setUpTable() {
  const body = byId("token-rows");
  const rows = [...body.querySelectorAll("tr.type")];
  for (const row of rows) {
    const next = row.nextElementSibling;
    row.more = next?.matches(".more") ? next : null;
    unfold(row, false);
  }
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
      if (row.more) row.more.hidden = !kept;
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
  body.append(...keyed.flatMap(({ row }) => (row.more ? [row, row.more] : [row])));
}

function rowOf(token) {
  return document.querySelector(`#token-rows tr.type[data-token="${Number(token)}"]`);
}

function unfold(row, open) {
  if (!row.more) return;
  row.more.classList.toggle("is-open", open);
  row.querySelector("a[data-rock]").setAttribute("aria-expanded", String(open));
}

/** Bring a token's row into sight; that of a rock unfolds. */
function leadTo(token) {
  const row = rowOf(token);
  if (!row) return;
  if (row.hidden) {
    byId("search").value = "";
    if (byId("only-rocks")) byId("only-rocks").checked = false;
    byId("search").dispatchEvent(new Event("input"));
  }
  if (row.more) openRock(token, true);
  else reveal(row);
}

/** In the box that scrolls, under its head, and on the screen. */
function reveal(row) {
  const box = row.closest(".scroll");
  const head = box.querySelector("thead").offsetHeight;
  box.scrollTop += row.getBoundingClientRect().top - box.getBoundingClientRect().top - head - 4;
  const target = row.querySelector("a") ?? row;
  if (target === row) row.tabIndex = -1;
  target.focus({ preventScroll: true });
  const { top, bottom } = box.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) byId("tokens").scrollIntoView({ behavior: "instant" });
}

/** Unfold a rock's row and fold the one before it; the address names it. */
function openRock(token, push) {
  const row = rowOf(token);
  if (!row?.more) return;
  if (state.rock !== null && state.rock !== String(token)) foldRock();
  unfold(row, true);
  state.rock = String(token);
  if (byId("text")) find(Number(token));
  reveal(row);
  if (push) writeAddress(true);
}

function foldRock() {
  const row = rowOf(state.rock);
  if (row) unfold(row, false);
  state.rock = null;
}
