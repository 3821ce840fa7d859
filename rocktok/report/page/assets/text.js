// The text view: tokens shaded by a value, on a scale, at a step.

const EMPTY = { steps: [], columns: [], tokens: {}, rocks: [], sequences: [] };
const text = JSON.parse(byId("data").textContent).text ?? EMPTY;
const LEVELS = 16;
const LINE_EMS = 2; // as page.css has it for .tokens
const LEVEL_CLASSES = Array.from({ length: LEVELS }, (_, level) => ` b${level}`);

// ---------------------------------------------------------------- the view

const columns = text.columns.filter((c) => text.sequences.some((s) => s.values[c.key]));
const rocks = new Set(text.rocks);
const view = byId("sequences");
const tip = byId("tip");
const slider = byId("step");
const sorted = new Map();
const sequences = text.sequences.map((sequence, index) => ({
  ...sequence, index, nodes: null, base: [], levels: null, near: false, drawn: -1,
  section: null, box: null, mean: null,
}));
const state = { key: columns[0]?.key, scale: null, step: Math.max(0, text.steps.length - 1),
  version: 0, found: null, places: [], active: null };

const valuesOf = (sequence, key, step) => {
  const all = sequence.values[key];
  return all?.[Math.min(step, all.length - 1)];
};
const piecesOf = (token) => text.tokens[token] ?? `<id ${token}>`;
const columnOf = (key) => columns.find((column) => column.key === key);

// ---------------------------------------------------------------- drawing

function baseClass(sequence, i) {
  const token = sequence.tokens[i];
  let name = "t";
  if (rocks.has(token)) name += " rock";
  if (sequence.retained[i]) name += " retained";
  else if (sequence.persistent[i]) name += " persistent";
  if (token === state.found) name += " is-found";
  return name;
}

function makeSection(sequence) {
  const section = element("section", "sequence");
  const head = element("header");
  const rockCount = sequence.tokens.reduce((sum, token) => sum + rocks.has(token), 0);
  const keptCount = sequence.retained.reduce((sum, kept) => sum + kept, 0);
  const title = element("h3", "", `Sequence ${sequence.id}`);
  const length = counted(sequence.tokens.length, "token");
  const facts = [length];
  if (rockCount) facts.push(`${rockCount} of rock types`);
  // Where it was not judged which contexts recur, none is not their number.
  if (sequence.retained.length) facts.push(`${keptCount} retained`);
  if (sequence.prompt_id) facts.unshift(`prompt ${sequence.prompt_id}`);
  sequence.mean = element("span", "facts");
  head.append(title, element("span", "facts", facts.join(" · ")), sequence.mean);
  section.append(head);
  if (sequence.prompt.length) section.append(show(element("p", "prompt"), sequence.prompt, true));
  sequence.box = element("div", "tokens");
  sequence.box.setAttribute("role", "group");
  sequence.box.setAttribute("aria-label", `Tokens of sequence ${sequence.id}`);
  // A stop of the Tab key, until its tokens are made and one of them is the stop.
  sequence.box.tabIndex = 0;
  section.append(sequence.box);
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

function shade(sequence) {
  sequence.drawn = state.version;
  const values = valuesOf(sequence, state.key, state.step);
  const { nodes, base, levels } = sequence;
  const edges = state.scale?.edges;
  let sum = 0;
  let known = 0;
  for (let i = 0; i < nodes.length; i++) {
    const value = values?.[i] ?? null;
    const level = value === null ? -1 : levelOf(edges, value);
    if (value !== null) {
      sum += value;
      known++;
    }
    if (level !== levels[i]) {
      levels[i] = level;
      nodes[i].className = base[i] + (level < 0 ? " bx" : LEVEL_CLASSES[level]);
    }
  }
  const column = columnOf(state.key);
  const mean = known ? format(sum / known) : "";
  sequence.mean.textContent = known ? `mean ${column.label} ${mean} ${column.unit ?? ""}` : "";
}

/** Only what is near the window is drawn now; the rest when it comes near. */
function redraw() {
  state.version++;
  for (const sequence of sequences) if (sequence.near && sequence.nodes) shade(sequence);
  if (!tip.hidden && state.active) describe(state.active.sequence, state.active.i);
}

function draw(sequence) {
  build(sequence);
  if (sequence.drawn !== state.version) shade(sequence);
}

// ---------------------------------------------------------------- controls

function rescale() {
  if (!columns.length) return;
  if (!sorted.has(state.key)) sorted.set(state.key, sortedValues(state.key));
  const values = sorted.get(state.key);
  const select = byId("scale");
  const logOption = select.querySelector("[value=log]");
  logOption.disabled = !(values[0] >= 0);
  if (logOption.disabled && select.value === "log") select.value = "linear";
  state.scale = values.length ? makeScale(values, select.value) : null;
  legend(select.value);
  redraw();
}

function legend(kind) {
  if (!state.scale) return;
  const { low, high, least, greatest } = state.scale;
  const { label, unit } = columnOf(state.key);
  const from = (least < low ? "≤ " : "") + format(low);
  const to = `${greatest > high ? "≥ " : ""}${format(high)} ${unit ?? ""}`.trim();
  byId("scale-low").textContent = from;
  byId("scale-high").textContent = kind === "rank" ? `${to}, by rank` : to;
  const said = `Colour scale of ${label}, ${kind}: from ${from} to ${to}`;
  byId("scale-bar").setAttribute("aria-label", said);
}

function setStep(step) {
  state.step = step;
  slider.value = step;
  byId("step-value").textContent = text.steps[step];
  slider.setAttribute("aria-valuetext", `step ${text.steps[step]}, ${step + 1} of ${text.steps.length}`);
  redraw();
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

// ---------------------------------------------------------------- moving

function focusToken(sequence, i) {
  draw(sequence);
  const node = sequence.nodes[i];
  if (!node) return;
  for (const other of sequence.box.querySelectorAll("[tabindex]")) {
    if (other === node) continue;
    for (const name of ["tabindex", "role", "aria-describedby", "aria-label"]) other.removeAttribute(name);
  }
  node.tabIndex = 0;
  node.focus({ preventScroll: true, focusVisible: true });
  const { top, bottom } = node.getBoundingClientRect();
  if (top < 180 || bottom > innerHeight - 40) {
    node.scrollIntoView({ block: "center", behavior: "instant" });
  }
  point(node);
}

/** The token nearest above (−1) or below (+1) in the lines as they are set. */
function inNextLine(sequence, i, direction) {
  const start = sequence.nodes[i].getClientRects()[0];
  let best = i;
  let line = null;
  for (let k = i + direction; k >= 0 && k < sequence.nodes.length; k += direction) {
    const rect = sequence.nodes[k].getClientRects()[0];
    if (!rect || Math.abs(rect.top - start.top) < 4) continue;
    if (line === null) line = rect.top;
    if (Math.abs(rect.top - line) > 4) break;
    const gain = (node) => Math.abs(node.getClientRects()[0].left - start.left);
    if (best === i || gain(sequence.nodes[k]) < gain(sequence.nodes[best])) best = k;
  }
  return best;
}

function onKey(event) {
  const node = tokenAt(event.target);
  if (!node || event.ctrlKey || event.metaKey || event.altKey) return;
  const sequence = sequenceOf(node);
  const last = sequence.nodes.length - 1;
  const moves = {
    ArrowLeft: () => Math.max(0, node.place - 1),
    ArrowRight: () => Math.min(last, node.place + 1),
    ArrowUp: () => inNextLine(sequence, node.place, -1),
    ArrowDown: () => inNextLine(sequence, node.place, 1),
    Home: () => 0,
    End: () => last,
  };
  const acts = {
    Enter: () => find(sequence.tokens[node.place]),
    n: () => goToFound(1),
    p: () => goToFound(-1),
  };
  acts[" "] = acts.Enter;
  if (moves[event.key]) focusToken(sequence, moves[event.key]());
  else if (acts[event.key]) acts[event.key]();
  else return;
  event.preventDefault();
}

// ---------------------------------------------------------------- finding a type

function find(token) {
  state.found = token;
  state.places = [];
  for (const sequence of sequences) {
    sequence.tokens.forEach((one, i) => {
      if (one === token) state.places.push([sequence.index, i]);
    });
    if (!sequence.nodes) continue;
    sequence.base = sequence.tokens.map((_, i) => baseClass(sequence, i));
    sequence.levels.fill(-2);
    sequence.drawn = -1;
  }
  const status = byId("found-text");
  byId("found").hidden = token === null;
  if (token !== null) {
    const shown = show(element("bdi", "token"), piecesOf(token), false);
    const where = new Set(state.places.map(([index]) => index)).size;
    const many = counted(state.places.length, "occurrence");
    status.replaceChildren(shown, ` ${many} in ${counted(where, "sequence")}`);
  }
  redraw();
}

function goToFound(direction) {
  if (!state.places.length) return;
  const from = state.active ? [state.active.sequence.index, state.active.i] : [-1, -1];
  const order = ([a, i], [b, k]) => a - b || i - k;
  const later = direction > 0 ? state.places.find((place) => order(place, from) > 0)
    : state.places.findLast((place) => order(place, from) < 0);
  const [index, i] = later ?? state.places.at(direction > 0 ? 0 : -1);
  focusToken(sequences[index], i);
}

/** `id` is text: ids beyond 2^53 are no numbers to a script. */
function goTo(id, position) {
  const sequence = sequences.find((one) => one.id === id);
  const i = sequence ? sequence.positions.indexOf(position) : -1;
  if (i < 0) return false;
  sequence.section.scrollIntoView({ behavior: "instant" });
  focusToken(sequence, i);
  return true;
}

// ---------------------------------------------------------------- start

function setUpText() {
  for (const { key, label } of columns) byId("shade").append(new Option(label, key));
  byId("swatches").append(...LEVEL_CLASSES.map((name) => element("i", `t${name}`)));
  view.append(...sequences.map(makeSection));
  for (const name of ["rock", "persistent", "retained"]) {
    const box = byId(`mark-${name}`);
    box.parentElement.hidden = sequences.every((sequence) => sequence[name]?.length === 0);
    const apply = () => byId("text").classList.toggle(`mark-${name}`, box.checked);
    box.addEventListener("change", apply);
    apply();
  }
  byId("shade").addEventListener("change", (event) => {
    state.key = event.target.value;
    rescale();
  });
  byId("scale").addEventListener("change", rescale);
  byId("found-next").addEventListener("click", () => goToFound(1));
  byId("found-previous").addEventListener("click", () => goToFound(-1));
  byId("found-clear").addEventListener("click", () => find(null));
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
