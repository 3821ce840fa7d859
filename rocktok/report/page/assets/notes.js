// ---------------------------------------------------------------- one token: what is said of it

function describe(sequence, i) {
  const token = sequence.tokens[i];
  const said = element("bdi", "token");
  show(said, piecesOf(token), false);
  const hard = sequence.retained[i] ? "retained" : sequence.persistent[i] ? "persistent" : "";
  const what = [rocks.has(token) ? "rock" : "", hard];
  const head = element("div");
  head.append(said, ` ${what.filter(Boolean).join(", ")}`);
  const list = element("dl");
  const line = (label, value, chosen) => {
    const name = chosen ? "chosen" : "";
    list.append(element("dt", name, label), element("dd", name, value));
  };
  for (const { key, label, unit } of columns) {
    const value = valuesOf(sequence, key, state.step)?.[i];
    const known = value !== null && value !== undefined;
    line(label, `${format(value)} ${known ? unit ?? "" : ""}`, key === state.key);
  }
  line("token id", String(token));
  line("sequence : position", `${sequence.id} : ${sequence.positions[i]}`);
  tip.replaceChildren(head, list, ...course(sequence, i));
  tip.hidden = false;
}

/** The chosen value over the steps, as a line, where it has a course. */
function course(sequence, i) {
  const all = (sequence.values[state.key] ?? []).map((values) => values[i]);
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
  describe(sequence, node.place);
  placeTip(node);
}

function placeTip(node) {
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
