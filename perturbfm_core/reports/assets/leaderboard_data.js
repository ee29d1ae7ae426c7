/* Data of the leaderboard page: parts that are decompressed when they are needed, and what is asked of them.

   LB.load()                    reads the head and the key metrics; LB.need(metric) what else a metric needs
   LB.score(field, cell, metric), LB.bound(field, board, metric)      a number, null where there is none
   LB.why(field, cell, metric)  why it is missing
   LB.conditions(board)         {cells, keys, value, reason} of the headline, null where it had no room
   LB.num(value)                text of a number, as many digits as the page holds */
"use strict";
const LB = (() => {
  const MISSING = -(2 ** 23);
  const parts = new Map();
  const bytesOf = (text) => {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  };
  const unpack = (bytes) => {
    const head = new DataView(bytes.buffer).getUint32(0, true);
    const { plain, arrays } = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + head)));
    const out = { ...plain };
    let at = 4 + head;
    for (const { name, kind, shape } of arrays) {
      const n = shape.reduce((a, b) => a * b, 1), values = new Float64Array(n), planes = kind === "number" ? 4 : 2;
      const plane = Array.from({ length: planes }, (_, i) => bytes.subarray(at + i * n, at + (i + 1) * n));
      for (let i = 0; i < n; i++) {
        if (kind === "code") { values[i] = plane[0][i] + 256 * plane[1][i]; continue; }
        const m = ((plane[0][i] | (plane[1][i] << 8) | (plane[2][i] << 16)) << 8) >> 8, d = (plane[3][i] << 24) >> 24;
        values[i] = m === MISSING ? NaN : d >= 0 ? m / 10 ** d : m * 10 ** -d;
      }
      out[name] = values;
      at += planes * n;
    }
    return out;
  };
  const part = (name) => {
    if (!parts.has(name)) parts.set(name, (async () => {
      const node = document.getElementById("part-" + name);
      if (!node) return null;
      const stream = new Blob([bytesOf(node.textContent.trim())]).stream().pipeThrough(new DecompressionStream("deflate"));
      return unpack(new Uint8Array(await new Response(stream).arrayBuffer()));
    })());
    return parts.get(name);
  };

  const lb = { blocks: [] };
  const place = new Map();
  const add = (block) => {
    if (!block) return;
    lb.blocks.push(block);
    block.at = new Map(block.metrics.map((m, i) => [m, i]));
    for (const m of block.metrics) place.set(m, (place.get(m) || []).concat([block]));
  };
  lb.load = async () => {
    lb.head = await part("head");
    add(await part("key"));
    lb.runs = await part("runs");
    const { board, entry } = lb.head.cells;
    lb.cellsOf = lb.head.boards.map(() => []);
    board.forEach((b, i) => lb.cellsOf[b].push(i));
    lb.entryOf = (cell) => lb.head.entries[entry[cell]];
    lb.runsOf = board.map(() => []);
    if (lb.runs) lb.runs.cell.forEach((c, i) => lb.runsOf[c].push(i));
  };
  const needed = new Map();
  const once = (name) => { if (!needed.has(name)) needed.set(name, part(name).then(add)); return needed.get(name); };
  lb.need = async (metric) => { if (!lb.head.key.includes(metric)) await Promise.all([once("rest"), once("more-" + lb.head.metrics[metric].panel)]); };
  lb.has = (metric) => place.has(metric);
  const read = (field, row, metric) => {
    for (const b of place.get(metric) || []) if (b[field]) return b[field][row * b.metrics.length + b.at.get(metric)];
    return undefined;
  };
  const orNull = (v) => (v === undefined || Number.isNaN(v) ? null : v);
  lb.score = (field, cell, metric) => {
    if (field !== "rank" && field !== "n_undefined" && field !== "best") return orNull(read(field, cell, metric));
    const code = read(field, cell, metric);
    return code ? code - 1 : null;
  };
  lb.bound = (field, board, metric) => orNull(read(field, board, metric));
  const NO_ROOM = "this page had no room for it: ask `perturbfm leaderboard sql`";
  lb.why = (field, row, metric) => {
    if (read(field, row, metric) === undefined && lb.head) return NO_ROOM;
    const kind = { ci_low: "interval_reason", ci_high: "interval_reason", diff: "diff_reason", diff_low: "diff_reason", diff_high: "diff_reason", ceiling: "ceiling_reason", ceiling_noise_free: "ceiling_reason", null_floor: "floor_reason", train_mean_floor: "floor_reason", control_mean_floor: "floor_reason", baseline_mark: "floor_reason", anchor_mark: "ceiling_reason" }[field] || "reason";
    const texts = [], code = read(kind, row, metric);
    if (code) texts.push(lb.head.reasons[code - 1]);
    if (field === "value" || field === "rank") {
      for (const b of place.get(metric) || []) if (b.details) { const d = b.details[row * b.metrics.length + b.at.get(metric)]; if (d) texts.push(b.detailTexts[d - 1]); }
    }
    return texts.length ? [...new Set(texts)].join("; ") : field === "value" ? "not scored" : "undefined";
  };
  lb.conditions = (board) => part("conditions-" + board);
  lb.better = (metric, a, b) => {
    const m = lb.head.metrics[metric], bad = (v) => (m.direction === "max" ? -v : m.direction === "min" ? v : Math.abs(v - (m.target || 0)));
    return a === null ? (b === null ? 0 : 1) : b === null ? -1 : bad(a) - bad(b);
  };
  lb.num = (v) => {
    if (v === null || v === undefined || Number.isNaN(v)) return "\u2013";
    const size = Math.abs(v);
    const text = size === 0 ? "0" : size < 1e-4 || size >= 1e6 ? v.toExponential(3) : size < 0.01 ? v.toPrecision(4) : size < 10 ? v.toFixed(4) : v.toPrecision(5);
    return (size >= 1e5 && size < 1e6 ? String(Math.round(v)) : text).replace(/-/g, "\u2212");
  };
  return lb;
})();
