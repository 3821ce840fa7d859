// The text view: tokens shaded by a value, on a scale, at a step.

const EMPTY = { steps: [], columns: [], tokens: {}, logs: [], sequences: [] };
const text = JSON.parse(byId("data").textContent).text ?? EMPTY;
const LEVELS = 16;
const LINE_EMS = 2; // as page.css has it for .tokens
const LEVEL_CLASSES = Array.from({ length: LEVELS }, (_, level) => ` b${level}`);
// Of a difference; the last: none at all.
const DIFFERENCE_CLASSES = [...Array.from({ length: LEVELS }, (_, level) => ` d${level}`), ""];

// ---------------------------------------------------------------- the view

const columns = text.columns.filter((c) => text.sequences.some((s) => s.values[c.key]));
const logs = text.logs.map(({ name, rocks }) => ({ name, rocks: new Set(rocks) }));
const view = byId("sequences");
const tip = byId("tip");
const slider = byId("step");
const sorted = new Map();
const sequences = text.sequences.map((sequence, index) => ({
  ...sequence, index, nodes: null, base: [], levels: null, near: false, drawn: -1,
  section: null, box: null, mean: null, pair: null, twin: null,
}));
// `other`: a step to hold against `step`, null: none; `rock` and `at` ([sequence, position]): what
// the address names.
const state = { key: columns[0]?.key, scale: null, step: Math.max(0, text.steps.length - 1),
  other: null, how: "difference", version: 0, found: null, places: [], active: null,
  rock: null, at: null };

const valuesOf = (sequence, key, step) => {
  const all = sequence.values[key];
  return all?.[Math.min(step, all.length - 1)];
};
const isRock = (sequence, token) => logs[sequence.log].rocks.has(token);
const differs = () => state.other !== null && state.how === "difference";
const isPaired = () => state.other !== null && state.how === "beside";

/** Names what is shaded, for what is kept of it: the same means and scales come again. */
const shownName = () => [state.key, state.step, differs() ? state.other : ""].join(" ");

/** What is shaded: values at the step, or what they are above those at the other step. */
function shownValues(sequence) {
  const values = valuesOf(sequence, state.key, state.step);
  if (!differs() || !values) return values;
  const others = valuesOf(sequence, state.key, state.other);
  return values.map((value, i) => {
    const other = others?.[i] ?? null;
    return value === null || other === null ? null : value - other;
  });
}

const piecesOf = (token) => text.tokens[token] ?? `<id ${token}>`;
const columnOf = (key) => columns.find((column) => column.key === key);

// ---------------------------------------------------------------- drawing

function baseClass(sequence, i) {
  const token = sequence.tokens[i];
  let name = "t";
  if (isRock(sequence, token)) name += " rock";
  if (sequence.retained[i]) name += " retained";
  else if (sequence.persistent[i]) name += " persistent";
  if (token === state.found) name += " is-found";
  return name;
}

function makeSection(sequence) {
  const section = element("section", "sequence");
  const head = element("header");
  const rockCount = sequence.tokens.reduce((sum, token) => sum + isRock(sequence, token), 0);
  const keptCount = sequence.retained.reduce((sum, kept) => sum + kept, 0);
  const title = element("h3", "", `Sequence ${sequence.id}`);
  const length = counted(sequence.tokens.length, "token");
  const facts = [length];
  if (rockCount) facts.push(`${rockCount} of rock types`);
  // Where it was not judged which contexts recur, none is not their number.
  if (sequence.retained.length) facts.push(`${keptCount} retained`);
  Object.assign(sequence, { rockShare: rockCount / (sequence.tokens.length || 1) });
  if (sequence.correct !== null) facts.push(sequence.correct ? "correct" : "wrong");
  if (sequence.domain) facts.unshift(sequence.domain);
  if (sequence.prompt_id) facts.unshift(`prompt ${sequence.prompt_id}`);
  if (logs[sequence.log].name) facts.unshift(logs[sequence.log].name);
  sequence.mean = element("span", "facts");
  head.append(title, element("span", "facts", facts.join(" · ")), sequence.mean);
  section.append(head);
  if (sequence.prompt.length) section.append(show(element("p", "prompt"), sequence.prompt, true));
  sequence.box = element("div", "tokens");
  sequence.box.setAttribute("role", "group");
  sequence.box.setAttribute("aria-label", `Tokens of sequence ${sequence.id}`);
  // A stop of the Tab key, until its tokens are made and one of them is the stop.
  sequence.box.tabIndex = 0;
  sequence.pair = element("div");
  sequence.pair.append(sequence.box);
  section.append(sequence.pair);
  sequence.section = section;
  section.sequence = sequence;
  return section;
}

/** Near the height that the tokens will take, so that the page grows little as they are made. */
function guessHeight(sequence, lineChars) {
  let lines = 1;
  let at = 0;
  for (const token of sequence.tokens) {
    const pieces = piecesOf(token);
    if (typeof pieces === "string") at += pieces.length;
    else {
      for (const [kind, shown] of pieces) {
        at += shown.length;
        if (kind !== "nl") continue;
        lines += Math.ceil(at / lineChars);
        at = 0;
      }
    }
  }
  lines += Math.floor(at / lineChars);
  sequence.box.style.minHeight = `${lines * LINE_EMS}em`;
}

function guessHeights() {
  const waiting = sequences.filter((sequence) => !sequence.nodes);
  if (!waiting.length) return;
  const ruler = element("span", "", "0".repeat(100));
  ruler.style.position = "absolute";
  ruler.style.visibility = "hidden";
  waiting[0].box.append(ruler);
  const lineChars = Math.max(8, (100 * waiting[0].box.clientWidth) / (ruler.offsetWidth || 1) - 2);
  ruler.remove();
  for (const sequence of waiting) guessHeight(sequence, lineChars);
}

/** What lies below the text is where it seems to be only once all of the text is made. */
function drawAll() {
  sequences.forEach(draw);
}

function build(sequence) {
  if (sequence.nodes) return;
  const box = document.createDocumentFragment();
  let expected = null;
  sequence.nodes = sequence.tokens.map((token, i) => {
    const position = sequence.positions[i];
    if (expected !== null && position > expected) {
      const absent = counted(position - expected, "token");
      box.append(element("span", "gap", ` ⋯ ${absent} not scored ⋯ `));
    }
    expected = position + 1;
    const pieces = piecesOf(token);
    const node = show(element("bdi"), pieces, true);
    node.dir = "ltr";
    node.place = i;
    box.append(node);
    if (typeof pieces !== "string" && pieces.at(-1)?.[0] === "nl") box.append("\n");
    return node;
  });
  sequence.base = sequence.tokens.map((_, i) => baseClass(sequence, i));
  sequence.levels = new Int8Array(sequence.tokens.length).fill(-2);
  sequence.box.append(box);
  sequence.box.style.minHeight = "";
  sequence.box.removeAttribute("tabindex");
  if (sequence.nodes.length) sequence.nodes[0].tabIndex = 0;
}

/** The same text beside itself, to be seen and pointed at; keys move in the first alone. */
function pair(sequence) {
  if (!isPaired()) {
    if (sequence.twin) sequence.pair.replaceChildren(sequence.box);
    sequence.pair.className = "";
    sequence.twin = null;
    return;
  }
  if (!sequence.twin) {
    const box = sequence.box.cloneNode(true);
    box.setAttribute("aria-hidden", "true");
    box.removeAttribute("role");
    for (const one of box.querySelectorAll("[tabindex]")) one.removeAttribute("tabindex");
    const nodes = [...box.children].filter((one) => one.matches("bdi"));
    nodes.forEach((node, i) => Object.assign(node, { place: i, isTwin: true }));
    sequence.twin = { nodes, levels: new Int8Array(nodes.length).fill(-2), heads: [] };
    sequence.twin.heads = [element("p", "facts"), element("p", "facts")];
    const sides = [[sequence.twin.heads[0], box], [sequence.twin.heads[1], sequence.box]];
    sequence.pair.className = "pair";
    sequence.pair.replaceChildren(...sides.map((parts) => {
      const side = element("div");
      side.append(...parts);
      return side;
    }));
  }
  const [left, right] = sequence.twin.heads;
  left.textContent = `step ${text.steps[state.other]}`;
  right.textContent = `step ${text.steps[state.step]}`;
}

function paint(sequence, nodes, levels, values) {
  const edges = state.scale?.edges;
  const classes = differs() ? DIFFERENCE_CLASSES : LEVEL_CLASSES;
  let sum = 0;
  let known = 0;
  for (let i = 0; i < nodes.length; i++) {
    const value = values?.[i] ?? null;
    let level = -1;
    if (value !== null) {
      // Where nothing changed there is no scale.
      level = value === 0 && differs() ? LEVELS : levelOf(edges, value);
      sum += value;
      known++;
    }
    if (level !== levels[i]) {
      levels[i] = level;
      nodes[i].className = sequence.base[i] + (level < 0 ? " bx" : classes[level]);
    }
  }
  return known ? sum / known : null;
}

function shade(sequence) {
  sequence.drawn = state.version;
  pair(sequence);
  const mean = paint(sequence, sequence.nodes, sequence.levels, shownValues(sequence));
  const { twin } = sequence;
  if (twin) paint(sequence, twin.nodes, twin.levels, valuesOf(sequence, state.key, state.other));
  const column = columnOf(state.key);
  const what = differs() ? `mean change of ${column?.label}` : `mean ${column?.label}`;
  sequence.mean.textContent = mean === null ? "" : `${what} ${format(mean)} ${column.unit ?? ""}`;
}

/** All tokens are painted anew: the classes mean something else. */
function repaint() {
  for (const sequence of sequences) {
    sequence.levels?.fill(-2);
    sequence.twin?.levels.fill(-2);
    sequence.drawn = -1;
  }
}

/** Only what is near the window is drawn now; the rest when it comes near. */
function redraw() {
  state.version++;
  for (const sequence of sequences) if (sequence.near && sequence.nodes) shade(sequence);
  if (!tip.hidden && state.active) describe(state.active);
  drawBars();
}

function draw(sequence) {
  build(sequence);
  if (sequence.drawn !== state.version) shade(sequence);
}

// ---------------------------------------------------------------- controls

function rescale() {
  if (!columns.length) return;
  const select = byId("scale");
  const name = differs() ? shownName() : state.key;
  if (!sorted.has(name)) sorted.set(name, differs() ? sortedChanges() : sortedValues(state.key));
  const values = sorted.get(name);
  const logOption = select.querySelector("[value=log]");
  logOption.disabled = differs() || !(values[0] >= 0);
  if (logOption.disabled && select.value === "log") select.value = "rank";
  const make = differs() ? makeDifferenceScale : makeScale;
  state.scale = values.length ? make(values, select.value) : null;
  legend(select.value);
  redraw();
}

function legend(kind) {
  const classes = differs() ? DIFFERENCE_CLASSES.slice(0, LEVELS) : LEVEL_CLASSES;
  byId("swatches").replaceChildren(...classes.map((name) => element("i", `t${name}`)));
  const { low, high, least, greatest } = state.scale ?? { low: 0, high: 0, least: 0, greatest: 0 };
  const { label, unit } = columnOf(state.key);
  const from = (least < low ? "≤ " : "") + format(low);
  const to = `${greatest > high ? "≥ " : ""}${format(high)} ${unit ?? ""}`.trim();
  byId("scale-low").textContent = from;
  byId("scale-high").textContent = kind === "rank" ? `${to}, by quantile` : to;
  const what = differs() ? `the change of ${label}` : label;
  const said = `Colour scale of ${what}, ${kind === "rank" ? "quantile" : kind}: from ${from} to ${to}`;
  byId("scale-bar").setAttribute("aria-label", said);
}

function setStep(step) {
  state.step = step;
  slider.value = step;
  byId("step-value").textContent = text.steps[step];
  slider.setAttribute("aria-valuetext", `step ${text.steps[step]}, ${step + 1} of ${text.steps.length}`);
  if (differs()) rescale();
  else redraw();
}

/** Hold the step against another (null: none), as a difference or side by side. */
function setOther(other, how) {
  state.other = other;
  state.how = how;
  byId("other").value = other ?? "";
  byId("how").value = how;
  byId("how").disabled = other === null;
  repaint();
  rescale();
}

function setUpSlider() {
  let timer = null;
  const play = byId("play");
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  slider.addEventListener("input", () => setStep(Number(slider.value)));
  slider.addEventListener("change", writeAddressSoon);
  const compare = () => {
    const { value } = byId("other");
    setOther(value === "" ? null : Number(value), byId("how").value);
    writeAddress();
  };
  byId("other").addEventListener("change", compare);
  byId("how").addEventListener("change", compare);
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (state.step === text.steps.length - 1) setStep(0);
    play.textContent = "Pause";
    timer = setInterval(() => {
      setStep(state.step + 1);
      if (state.step === text.steps.length - 1) stop();
    }, 800);
  });
  setStep(state.step);
}

// ---------------------------------------------------------------- start

function setUpText() {
  for (const { key, label } of columns) byId("shade").append(new Option(label, key));
  view.append(...sequences.map(makeSection));
  for (const name of ["rock", "persistent", "retained"]) {
    const box = byId(`mark-${name}`);
    const none = name === "rock" ? logs.every(({ rocks }) => rocks.size === 0)
      : sequences.every((sequence) => !sequence[name]?.some(Boolean));
    box.parentElement.hidden = none;
    const apply = () => byId("text").classList.toggle(`mark-${name}`, box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  byId("shade").addEventListener("change", (event) => {
    state.key = event.target.value;
    rescale();
    writeAddress();
  });
  byId("scale").addEventListener("change", () => {
    rescale();
    writeAddress();
  });
  byId("found-next").addEventListener("click", () => goToFound(1));
  byId("found-previous").addEventListener("click", () => goToFound(-1));
  byId("found-clear").addEventListener("click", () => find(null));
  byId("found-row").addEventListener("click", () => leadTo(state.found));
  setUpOverview();
  const onToken = (type, act, otherwise) => view.addEventListener(type, (event) => {
    const node = tokenAt(event.target);
    if (node) act(node);
    else otherwise?.();
  });
  onToken("pointerover", point, unpoint);
  onToken("click", (node) => focusToken(sequenceOf(node), node.place));
  onToken("focusin", (node) => {
    node.setAttribute("role", "button");
    node.setAttribute("aria-describedby", "tip");
    node.setAttribute("aria-label", named(piecesOf(sequenceOf(node).tokens[node.place])));
    point(node);
  });
  view.addEventListener("focusin", ({ target }) => {
    if (target.matches(".tokens")) focusToken(sequenceOf(target), 0);
  });
  view.addEventListener("pointerleave", unpoint);
  view.addEventListener("focusout", () => { tip.hidden = true; });
  view.addEventListener("keydown", onKey);
  document.addEventListener("keydown", ({ key }) => { if (key === "Escape") tip.hidden = true; });
  addEventListener("scroll", () => { if (!tip.hidden) placeTip(state.active.node); }, { passive: true });
  rescale();
  guessHeights();
  if (slider) setUpSlider();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.sequence.near = isIntersecting;
      if (isIntersecting) draw(target.sequence);
    }
  }, { rootMargin: "600px 0px" });
  sequences.forEach((sequence) => watch.observe(sequence.section));
}
