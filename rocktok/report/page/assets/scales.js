// ---------------------------------------------------------------- scales

/** All values of a column, over sequences and steps, in order: shading compares across steps. */
function sortedValues(key) {
  const kept = [];
  for (const sequence of text.sequences) {
    for (const values of sequence.values[key] ?? []) {
      for (const value of values) if (value !== null) kept.push(value);
    }
  }
  return Float64Array.from(kept).sort();
}

/** Where each level begins, and the ends of the scale. Outliers beyond 1% do not stretch it. */
function makeScale(sorted, kind) {
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  const least = sorted[0];
  const greatest = sorted[sorted.length - 1];
  const edges = new Float64Array(LEVELS - 1);
  if (kind === "rank") {
    for (let k = 0; k < edges.length; k++) edges[k] = at((k + 1) / LEVELS);
    return { edges, low: least, high: greatest, least, greatest };
  }
  let high = at(0.99);
  let low = least < 0 ? at(0.01) : 0;
  if (kind === "log") {
    const positive = sorted.findIndex((value) => value > 0);
    if (high <= 0) high = greatest > 0 ? greatest : 1;
    const small = positive < 0 ? high : sorted[positive + Math.floor(0.01 * (sorted.length - positive))];
    low = Math.min(Math.max(small, high * 1e-4), high / 10);
  }
  if (!(high > low)) high = greatest > low ? greatest : low + 1;
  for (let k = 0; k < edges.length; k++) {
    const share = (k + 1) / LEVELS;
    edges[k] = kind === "log" ? low * (high / low) ** share : low + (high - low) * share;
  }
  return { edges, low, high, least, greatest };
}

/** Sizes of all changes from the other step to this one that are not 0, in order. */
function sortedChanges() {
  const kept = [];
  for (const sequence of sequences) {
    for (const value of shownValues(sequence) ?? []) if (value) kept.push(Math.abs(value));
  }
  return Float64Array.from(kept).sort();
}

/** A scale on both sides of zero, alike: half of the levels below, half above. */
function makeDifferenceScale(sizes, kind) {
  const at = (share) => sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))];
  const greatest = sizes[sizes.length - 1];
  const high = kind === "rank" ? greatest : at(0.99) || greatest;
  const half = LEVELS / 2;
  const above = Array.from({ length: half - 1 }, (_, k) => {
    const share = (k + 1) / half;
    return kind === "rank" ? at(share) : high * share;
  });
  const edges = Float64Array.from([...above.map((edge) => -edge).reverse(), 0, ...above]);
  return { edges, low: -high, high, least: -greatest, greatest };
}

/** The number of edges below a value: 0 … LEVELS − 1. */
function levelOf(edges, value) {
  let low = 0;
  let high = edges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
