// ---------------------------------------------------------------- one token: what is said of it

function describe({ sequence, i, node }) {
  const step = node.isTwin ? state.other : state.step;
  const token = sequence.tokens[i];
  const said = element("bdi", "token");
  show(said, piecesOf(token), false);
  const hard = sequence.retained[i] ? "retained" : sequence.persistent[i] ? "persistent" : "";
  const what = [isRock(sequence, token) ? "rock" : "", hard];
  const head = element("div");
  head.append(said, ` ${what.filter(Boolean).join(", ")}`);
  const list = element("dl");
  const line = (label, value, chosen) => {
    const name = chosen ? "chosen" : "";
    list.append(element("dt", name, label), element("dd", name, value));
  };
  for (const { key, label, unit } of columns) {
    const value = valuesOf(sequence, key, step)?.[i];
    const known = value !== null && value !== undefined;
    line(label, `${format(value)} ${known ? unit ?? "" : ""}`, key === state.key);
    if (key === state.key && differs()) {
      const change = shownValues(sequence)?.[i] ?? null;
      line(`above step ${text.steps[state.other]}`, `${format(change)} ${unit ?? ""}`);
    }
  }
  line("token id", String(token % 2 ** 32));
  line("sequence : position", `${sequence.id} : ${sequence.positions[i]}`);
  tip.replaceChildren(head, list, ...alternatives(sequence, i, step), ...course(sequence, i));
  tip.hidden = false;
}

/** What both models held likeliest there, where that was recorded. */
function alternatives(sequence, i, step) {
  const { teacher, student } = sequence.alternatives ?? {};
  if (!teacher?.[i]?.length) return [];
  // The student's are known at some steps: at the one shown, or at the last of them.
  const at = student[text.steps[step]] ? String(text.steps[step]) : Object.keys(student).at(-1);
  const made = element("table");
  const head = element("tr");
  head.append(element("th", "", "teacher"), element("th", "", `student, step ${at}`));
  made.append(head);
  const cell = (all, k) => {
    const one = element("td");
    if (all && 2 * k < all.length) {
      const likely = element("bdi", "token");
      show(likely, piecesOf(all[2 * k]), false);
      one.append(likely, ` ${Math.round(100 * all[2 * k + 1])}%`);
    }
    return one;
  };
  const rows = Math.max(teacher[i].length, student[at][i]?.length ?? 0) / 2;
  for (let k = 0; k < rows; k++) {
    const row = element("tr");
    row.append(cell(teacher[i], k), cell(student[at][i], k));
    made.append(row);
  }
  return [made];
}

/** The chosen value over the steps, as a line, where it has a course. */
function course(sequence, i) {
  const all = (sequence.values[state.key] ?? []).map((values) => values?.[i] ?? null);
  if (all.length < 2 || all.some((value) => value === null)) return [];
  const greatest = Math.max(...all);
  const least = Math.min(0, ...all);
  const height = (value) => (30 * (value - least)) / (greatest - least || 1);
  const at = (k) => [(100 * k) / (all.length - 1), 30 - height(all[k])];
  const part = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const stroke = { stroke: "currentColor", "vector-effect": "non-scaling-stroke" };
  const svg = part("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  const points = all.map((_, k) => at(k).join(",")).join(" ");
  const [x] = at(state.step);
  svg.append(
    part("line", { ...stroke, x1: x, x2: x, y1: 0, y2: 30, "stroke-opacity": 0.4 }),
    part("polyline", { ...stroke, points, fill: "none", "stroke-width": 2 }));
  const { label } = columnOf(state.key);
  const steps = `${label} over steps ${text.steps[0]} to ${text.steps.at(-1)}: `
    + `${format(all[0])} to ${format(all.at(-1))}`;
  return [svg, element("div", "facts", steps)];
}

function point(node) {
  const sequence = sequenceOf(node);
  state.active = { sequence, i: node.place, node };
  describe(state.active);
  placeTip(node);
}

function placeTip(node, tip = byId("tip")) {
  const [rect] = node.getClientRects();
  if (!rect) return;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const page = document.documentElement;
  const below = rect.bottom + 8 + height <= page.clientHeight;
  tip.style.left = `${Math.max(4, Math.min(rect.left, page.clientWidth - width - 4))}px`;
  tip.style.top = `${below ? rect.bottom + 8 : Math.max(4, rect.top - height - 8)}px`;
}

function tokenAt(target) {
  return target.closest?.(".tokens > bdi");
}

function sequenceOf(node) {
  return node.closest(".sequence").sequence;
}

function unpoint() {
  tip.hidden = true;
  const focused = tokenAt(document.activeElement ?? document.body);
  if (focused && focused.matches(":focus-visible")) point(focused);
}

// ---------------------------------------------------------------- points of figures

/**
 * A point says which token it is, and its numbers; a click leads to the token's row. Where there is
 * nothing to hover with, the first tap says, and the second leads; keys go from point to point.
 */
function setUpFigures() {
  const note = byId("figure-tip");
  const hits = [...document.querySelectorAll(".hit")];
  let said = null;
  let pointer = "";
  const mark = (token) => {
    for (const hit of hits) hit.classList.toggle("is-pointed", hit.dataset.token === token);
  };
  const hide = () => {
    said = null;
    if (note.hidden) return;
    note.hidden = true;
    mark(null);
  };
  const tell = (hit) => {
    const { token, values } = hit.dataset;
    const name = rowOf(token)?.querySelector("bdi.token")?.cloneNode(true) ?? element("bdi", "token");
    if (!name.textContent) show(name, piecesOf(token), false);
    const list = element("dl");
    for (const line of values.split("\n").filter(Boolean)) {
      const [label, value] = line.split("\t");
      list.append(element("dt", "", label), element("dd", "", value));
    }
    note.replaceChildren(name, list);
    note.hidden = false;
    mark(token);
    placeTip(hit, note);
  };
  const lead = (hit) => {
    hide();
    leadTo(hit.dataset.token);
  };
  document.addEventListener("pointerover", ({ target }) => {
    const hit = target.closest?.(".hit");
    if (hit) tell(hit);
    else hide();
  });
  document.addEventListener("pointerdown", ({ pointerType }) => {
    pointer = pointerType;
  });
  document.addEventListener("click", ({ target }) => {
    const hit = target.closest?.(".hit");
    if (!hit) return;
    if (pointer !== "touch" || said === hit) return lead(hit);
    tell(hit);
    said = hit;
  });
  for (const drawing of document.querySelectorAll(".drawing")) {
    setUpKeys(drawing, { tell, lead, hide });
  }
}

/** Keys on a figure that has points, from left to right. */
function setUpKeys(drawing, { tell, lead, hide }) {
  const across = (hit) => hit.cx.baseVal.value;
  const points = [...drawing.querySelectorAll(".hit")].sort((a, b) => across(a) - across(b));
  if (!points.length) return;
  let at = -1;
  drawing.tabIndex = 0;
  drawing.setAttribute("role", "group");
  const label = drawing.getAttribute("aria-label");
  drawing.setAttribute("aria-label",
    `${label} ${points.length} points: arrow keys go through them, Enter leads to a token's row.`);
  drawing.addEventListener("keydown", (event) => {
    const last = points.length - 1;
    const to = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last,
    }[event.key];
    if (to !== undefined) {
      at = Math.max(0, Math.min(to, last));
      points[at].scrollIntoView({ block: "nearest" });
      tell(points[at]);
    } else if (event.key === "Escape") hide();
    else if ((event.key === "Enter" || event.key === " ") && at >= 0) lead(points[at]);
    else return;
    event.preventDefault();
  });
  drawing.addEventListener("blur", hide);
}
