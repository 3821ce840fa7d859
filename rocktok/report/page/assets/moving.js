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
  state.at = placeOf(sequence, sequence.positions[i]);
  writeAddressSoon();
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
    if (sequence.section.hidden) continue;
    sequence.tokens.forEach((one, i) => {
      if (one === token) state.places.push([sequence.index, i]);
    });
    if (!sequence.nodes) continue;
    sequence.base = sequence.tokens.map((_, i) => baseClass(sequence, i));
  }
  repaint();
  const status = byId("found-text");
  byId("found").hidden = token === null;
  if (token !== null) {
    const shown = show(element("bdi", "token"), piecesOf(token), false);
    const where = new Set(state.places.map(([index]) => index)).size;
    const many = counted(state.places.length, "occurrence");
    byId("found-row").hidden = !rowOf(token);
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
function goTo(id, position, log = 0) {
  const sequence = sequences.find((one) => one.id === id && one.log === log);
  const i = sequence ? sequence.positions.indexOf(position) : -1;
  if (i < 0) return false;
  sequence.section.hidden = false;
  sequence.section.scrollIntoView({ behavior: "instant" });
  focusToken(sequence, i);
  return true;
}
