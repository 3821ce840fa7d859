// ---------------------------------------------------------------- all sequences at a glance

const bars = [];
const means = new Map();

/** A line for each sequence: its name, and its mean as a bar. */
function setUpOverview() {
  for (const sequence of sequences) {
    const line = element("li");
    const link = element("a");
    const [position] = sequence.positions;
    link.href = `#seq=${placeOf(sequence, position).join(":")}`;
    Object.assign(link.dataset, { sequence: sequence.id, position, log: sequence.log });
    const bar = element("span", "bar");
    const mean = element("span", "mean");
    const name = [sequence.id, logs[sequence.log].name].filter(Boolean).join(" · ");
    link.append(element("span", "name", name), bar, mean);
    line.append(link);
    bars.push({ sequence, line, bar, mean });
  }
  const options = (id, values) => {
    const select = byId(id);
    const distinct = [...new Set(values)].filter((value) => value !== "");
    if (distinct.length < 2) return;
    select.append(new Option("all", ""), ...distinct.map((value) => new Option(value, value)));
    select.parentElement.hidden = false;
  };
  options("by-log", sequences.map((one) => logs[one.log].name));
  options("by-domain", sequences.map((one) => one.domain));
  options("by-correct", sequences.map(answerOf));
  for (const id of ["by-log", "by-domain", "by-correct"]) byId(id).addEventListener("change", filterSequences);
  byId("by-prompt").addEventListener("input", filterSequences);
  byId("order").addEventListener("change", orderSequences);
  byId("bars").append(...bars.map(({ line }) => line));
  byId("overview").addEventListener("toggle", drawBars);
  filterSequences();
}

function answerOf(sequence) {
  return sequence.correct === null ? "" : sequence.correct ? "correct" : "wrong";
}

function meanOf(sequence) {
  let sum = 0;
  let known = 0;
  for (const value of shownValues(sequence) ?? []) {
    if (value === null) continue;
    sum += value;
    known++;
  }
  return known ? sum / known : null;
}

/** Means at the step; bars are as long as the largest of all is far from 0. */
function drawBars() {
  if (!byId("overview")?.open) return;
  const name = shownName();
  if (!means.has(name)) means.set(name, bars.map(({ sequence }) => meanOf(sequence)));
  const shown = means.get(name);
  const most = Math.max(...shown.map((mean) => Math.abs(mean ?? 0))) || 1;
  bars.forEach(({ bar, mean }, k) => {
    bar.style.width = `${(100 * Math.abs(shown[k] ?? 0)) / most}%`;
    mean.textContent = format(shown[k]);
  });
}

function filterSequences() {
  const wanted = byId("by-prompt").value.trim().toLowerCase();
  const among = (id, value) => [value, ""].includes(byId(id).value);
  let left = 0;
  for (const { sequence, line } of bars) {
    const words = `${sequence.prompt_id}\n${named(sequence.prompt)}`.toLowerCase();
    const kept = words.includes(wanted) && among("by-domain", sequence.domain)
      && among("by-correct", answerOf(sequence)) && among("by-log", logs[sequence.log].name);
    line.hidden = !kept;
    sequence.section.hidden = !kept;
    left += kept;
  }
  byId("overview-count").textContent = `${left} of ${bars.length} shown`;
  if (state.found !== null) find(state.found);
}

function orderSequences() {
  const by = {
    // Without a mean: last.
    mean: ({ sequence }) => -(meanOf(sequence) ?? -Number.MAX_VALUE),
    least: ({ sequence }) => meanOf(sequence) ?? Number.MAX_VALUE,
    rock: ({ sequence }) => -sequence.rockShare,
    length: ({ sequence }) => -sequence.tokens.length,
  }[byId("order").value] ?? (({ sequence }) => sequence.index);
  const order = bars.map((bar) => [by(bar), bar]);
  order.sort(([a, x], [b, y]) => a - b || x.sequence.index - y.sequence.index);
  byId("bars").append(...order.map(([, { line }]) => line));
  view.append(...order.map(([, { sequence }]) => sequence.section));
}
