/* The leaderboard page: what is chosen, the list of boards, the table, and when charts are drawn. The address keeps the choice. */
"use strict";
(async () => {
  const { el } = PF, $ = (id) => document.getElementById(id);
  LB.settings = JSON.parse($("settings").textContent);
  try { await LB.load(); } catch (error) {
    $("trouble").textContent = `The data of this page cannot be read (${error.message}); use a browser of 2023 or later, or perturbfm leaderboard show.`;
    $("trouble").hidden = false;
    return;
  }
  const H = LB.head, words = (t) => t.replaceAll("_", " ");
  const plain = H.boards.map((b) => `${H.datasets[b.dataset].name} \u00b7 ${words(b.kind)}`);
  LB.boardNames = plain.map((t, i) => (plain.filter((o) => o === t).length > 1 ? `${t} \u00b7 ${H.boards[i].board.split(".").pop().slice(0, 10)}` : t));
  const state = { data: "", kind: "", board: null, metric: H.headline, sort: "place", down: false, text: "", off: new Set(), most: 100, extra: new Set(), cost: null, heat: "mean" };
  $("made").append(` ${H.boards.length} boards, ${H.entries.length} entries, ${H.metrics.length} metrics. Ranked by `, el("code", {}, LB.fullName(H.headline)), " unless another metric is chosen.");
  if (!H.boards.length) return;

  // ---- choices ---------------------------------------------------------------------------------------------------------
  const options = (select, items, chosen) => select.replaceChildren(...items.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text)));
  const dataOf = (b) => H.datasets[b.dataset].name;
  const matching = () => H.boards.map((b, i) => i).filter((i) => (!state.data || dataOf(H.boards[i]) === state.data) && (!state.kind || H.boards[i].kind === state.kind));
  const panels = H.panels.map((p) => p.name);
  const metricsOf = (panel) => H.metrics.map((m, i) => [i, m]).filter(([, m]) => m.panel === panel);
  const fillChoices = () => {
    const sources = [...new Set(H.boards.map(dataOf))].sort(), kinds = [...new Set(H.boards.map((b) => b.kind))].sort();
    options($("pick-data"), [["", `all data (${sources.length})`], ...sources.map((d) => [d, d])], state.data);
    options($("pick-kind"), [["", `all kinds (${kinds.length})`], ...kinds.map((k) => [k, words(k)])], state.kind);
    const panel = H.metrics[state.metric].panel;
    options($("pick-panel"), panels.map((p) => [p, p]), panel);
    options($("pick-metric"), metricsOf(panel).map(([i, m]) => [i, `${m.name} ${LB.arrow(i)}`]), state.metric);
  };
  const headlineOf = (panel) => { const p = H.panels.find((q) => q.name === panel), at = H.metrics.findIndex((m) => m.panel === panel && m.name === p.headline); return at >= 0 ? at : metricsOf(panel)[0][0]; };
  const write = () => {
    const q = new URLSearchParams();
    if (state.board !== null) q.set("board", H.boards[state.board].board); else q.set("board", "all");
    if (state.metric !== H.headline) q.set("metric", LB.fullName(state.metric));
    history.replaceState(null, "", "#" + q.toString());
  };
  const read = () => {
    const q = new URLSearchParams(location.hash.slice(1)), board = q.get("board"), metric = q.get("metric");
    const b = H.boards.findIndex((x) => x.board === board), m = H.metrics.findIndex((x, i) => LB.fullName(i) === metric);
    state.metric = m >= 0 ? m : H.headline;
    state.board = board === "all" ? null : b >= 0 ? b : H.boards.length > 1 && !board ? first() : 0;
  };
  // The first that is seen: the one with most entries, whole ones first.
  const first = () => H.boards.map((b, i) => i).sort((i, j) => (H.boards[j].complete && !H.boards[j].noSignal) - (H.boards[i].complete && !H.boards[i].noSignal) || LB.cellsOf[j].length - LB.cellsOf[i].length || i - j)[0];

  // As the table has it: the first of those that are ranked or, where none is ranked, of those on the most folds.
  const bestOf = (b, m) => { const valued = LB.cellsOf[b].filter((c) => LB.score("value", c, m) !== null), ranked = valued.filter((c) => LB.score("rank", c, m) !== null), most = Math.max(...valued.map((c) => H.cells.done[c])); let best = null; for (const c of ranked.length ? ranked : valued.filter((c) => H.cells.done[c] === most)) { const v = LB.score("value", c, m), u = LB.score("n_undefined", c, m); if (best === null || u < best[2] || (u === best[2] && LB.better(m, v, best[1]) < 0)) best = [c, v, u]; } return best; };
  const badges = (b) => {
    const board = H.boards[b], out = [];
    if (!board.complete) out.push(el("span", { class: "badge warn", title: `${board.reason || "folds are missing"}: not ranked as a whole` }, `${board.done} of ${board.total} folds`));
    else if (board.total > 1) out.push(el("span", { class: "badge" }, `${board.total} folds`));
    if (board.noSignal) out.push(el("span", { class: "badge warn", title: "two halves of the same condition hardly agree; nothing is ranked" }, "no signal"));
    if (board.sharedControl) out.push(el("span", { class: "badge warn", title: "truth and models use the same control cells; correlations are inflated" }, "shared control"));
    return out;
  };
  const listBoards = () => {
    const shown = matching();
    $("boards-count").textContent = shown.length === H.boards.length ? `(${shown.length})` : `(${shown.length} of ${H.boards.length})`;
    const item = (b, name, ...lines) => el("li", {}, el("button", { type: "button", "aria-current": state.board === b ? "true" : null, onclick: () => go({ board: b }) }, el("span", { class: "name" }, name), ...lines));
    const all = H.boards.length > 1 ? [item(null, "All boards", el("span", { class: "line" }, el("span", {}, `${H.entries.length} entries side by side`)))] : [];
    $("board-list").replaceChildren(...all, ...shown.map((b) => {
      const best = bestOf(b, state.metric);
      return item(b, LB.boardNames[b], el("span", { class: "line" }, best ? el("span", {}, LB.entryOf(best[0]).name) : el("span", {}, "no value"), best ? el("span", {}, LB.num(best[1])) : null), ...(badges(b).length ? [el("span", {}, ...badges(b))] : []));
    }));
  };

  // ---- table -----------------------------------------------------------------------------------------------------------
  const number = (field) => ({ read: (c) => LB.score(field, c, state.metric), cell: (c) => { const v = LB.score(field, c, state.metric); return v === null ? LB.dash(LB.why(field, c, state.metric)) : document.createTextNode(LB.num(v)); } });
  const costs = ["fit_seconds", "predict_seconds", "cpu_seconds", "peak_memory_mb", "n_parameters"];
  const costNames = { fit_seconds: "fit, s", predict_seconds: "predict, s", cpu_seconds: "CPU, s", peak_memory_mb: "memory, MB", n_parameters: "parameters" };
  const costValue = (c, k) => { const v = H.costs[c * costs.length + costs.indexOf(k)]; return Number.isNaN(v) ? null : v; };
  const costWhy = (c, k) => H.costReasons[k][c] || "not recorded by this run";
  const places = new Map();
  const columns = () => {
    const m = state.metric, gain = number("diff");
    const base = [
      { id: "place", name: "#", title: "rank; entries that are undefined in fewer conditions come first", class: "rank", read: (c) => places.get(c), cell: (c) => { const r = LB.score("rank", c, m); return r === null ? LB.dash(LB.why("rank", c, m)) : document.createTextNode(String(r)); } },
      { id: "entry", name: "entry", class: "text", text: true, read: (c) => LB.entryOf(c).name, cell: (c) => { const e = LB.entryOf(c); return el("span", {}, el("button", { type: "button", class: "link", onclick: () => LB.aboutEntry(c, state.metric) }, e.name), el("span", { class: `badge ${e.family}` }, e.family), e.usesOtherScreens ? el("span", { class: "badge", title: "its fit read effects that other data sets measured (--borrow)" }, "uses other screens") : null, e.warnedOf ? el("span", { class: "badge warn", title: e.warnedOf }, "warned of") : null, H.cells.done[c] < H.boards[state.board].done ? el("span", { class: "badge warn", title: "not ranked: folds of it are missing" }, `${H.cells.done[c]} of ${H.cells.total[c]} folds`) : null); } },
      { id: "value", name: H.metrics[m].name, arrow: LB.arrow(m), title: `${LB.fullName(m)}: ${LB.better_text(m)}`, class: "number", ...number("value"), cell: (c) => { const v = LB.score("value", c, m), u = LB.score("n_undefined", c, m); return el("span", { "data-value": v }, v === null ? LB.dash(LB.why("value", c, m)) : LB.num(v), v !== null && u ? el("abbr", { class: "sub", title: `undefined in ${u} of ${H.cells.conditions[c]} conditions; ranked behind entries that are defined in more`, tabindex: 0 }, "*") : null); } },
      { id: "interval", name: "95 % interval", class: "interval", axis: true, read: (c) => LB.score("ci_low", c, m), cell: (c) => interval(c) },
      { id: "gain", name: "gain", title: "paired difference to the best baseline that is defined everywhere", class: "number", ...gain, cell: (c) => { const v = gain.read(c); if (v === null) return gain.cell(c); const low = LB.score("diff_low", c, m), high = LB.score("diff_high", c, m), good = LB.better(m, v, 0) < 0, best = LB.score("best", c, m); return el("span", { class: low !== null && low * high > 0 ? (good ? "pos" : "neg") : null, title: `against ${best === null ? "the best baseline" : H.entries[best].name}: ${low === null ? LB.why("diff_low", c, m) : `95 % interval ${LB.num(low)} to ${LB.num(high)}`}` }, v > 0 ? "+" + LB.num(v) : LB.num(v)); } },
      { id: "runs", name: "seeds and folds", title: "the value of every run, by fold and seed", class: "runs", read: (c) => H.cells.runs[c], cell: (c) => runsCell(c) },
    ];
    const more = [
      { id: "range", name: "interval, in numbers", class: "number", read: (c) => LB.score("ci_low", c, m), cell: (c) => (LB.score("ci_low", c, m) === null ? LB.dash(LB.why("ci_low", c, m)) : document.createTextNode(`${LB.num(LB.score("ci_low", c, m))} to ${LB.num(LB.score("ci_high", c, m))}`)) },
      { id: "undefined", name: "undefined conditions", class: "number", read: (c) => LB.score("n_undefined", c, m), cell: (c) => document.createTextNode(`${LB.score("n_undefined", c, m) ?? "?"} of ${H.cells.conditions[c]}`) },
      { id: "folds", name: "folds", class: "number", read: (c) => H.cells.done[c], cell: (c) => document.createTextNode(`${H.cells.done[c]} of ${H.cells.total[c]}`) },
      { id: "seeds", name: "seeds", class: "number", read: (c) => H.cells.seeds[c], cell: (c) => document.createTextNode(String(H.cells.seeds[c])) },
      ...costs.map((k) => ({ id: k, name: costNames[k], class: "number", read: (c) => costValue(c, k), cell: (c) => (costValue(c, k) === null ? LB.dash(costWhy(c, k)) : document.createTextNode(PF.number(costValue(c, k)))) })),
      ...H.panels.map((p) => [p, headlineOf(p.name)]).filter(([, h]) => h !== m && LB.has(h)).map(([, h]) => ({ id: "m" + h, name: LB.fullName(h), arrow: LB.arrow(h), title: LB.better_text(h), class: "number", read: (c) => LB.score("value", c, h), cell: (c) => (LB.score("value", c, h) === null ? LB.dash(LB.why("value", c, h)) : document.createTextNode(LB.num(LB.score("value", c, h)))) })),
    ];
    return { base, more };
  };
  let axis = null, marks = [], unknown = [];
  const interval = (c) => {
    const m = state.metric, value = LB.score("value", c, m), low = LB.score("ci_low", c, m), high = LB.score("ci_high", c, m);
    if (!axis) return LB.dash(LB.why("value", c, m));
    const name = `${LB.entryOf(c).name}: ${value === null ? `no value, ${LB.why("value", c, m)}` : LB.num(value)}${low === null ? (value === null ? "" : `; no interval: ${LB.why("ci_low", c, m)}`) : `, 95 % interval ${LB.num(low)} to ${LB.num(high)}`}. ${marks.map((k) => `${k.name} ${LB.num(k.value)}`).join(", ")}`;
    return LB.interval({ value, low, high, axis, marks, name });
  };
  const runsCell = (c) => {
    const runs = LB.runsOf[c];
    if (!runs.length) return LB.dash(LB.runs ? "no run of it is at hand" : "this page had no room for the runs");
    const key = H.key.includes(state.metric), sorted = [...runs].sort((a, b) => (LB.runs.fold[a] ?? 0) - (LB.runs.fold[b] ?? 0) || LB.runs.seed[a] - LB.runs.seed[b]);
    const values = sorted.map((r) => LB.runValue(r, key ? state.metric : H.headline)[0]);
    const name = `${LB.fullName(key ? state.metric : H.headline)} by run: ` + sorted.map((r, i) => `${LB.runs.fold[r] === null ? "" : `fold ${LB.runs.fold[r]}, `}seed ${LB.runs.seed[r]}: ${LB.num(values[i])}`).join("; ");
    const newest = runs.reduce((a, b) => (LB.runs.created[b] > LB.runs.created[a] ? b : a));
    return el("span", { class: "runs-cell" }, LB.spark(values, sparkRange, name), LB.report(LB.runs.folder[newest]));
  };
  let sparkRange = [0, 1];

  const prepare = () => {
    const b = state.board, m = state.metric, cells = LB.cellsOf[b];
    const order = [...cells].sort((x, y) => (LB.score("value", x, m) === null) - (LB.score("value", y, m) === null) || (LB.score("rank", x, m) ?? 1e9) - (LB.score("rank", y, m) ?? 1e9) || H.cells.done[y] - H.cells.done[x] || (LB.score("n_undefined", x, m) ?? 0) - (LB.score("n_undefined", y, m) ?? 0) || LB.better(m, LB.score("value", x, m), LB.score("value", y, m)) || LB.entryOf(x).name.localeCompare(LB.entryOf(y).name));
    places.clear();
    order.forEach((c, i) => places.set(c, i + 1));
    const all = LB.marksOf(b, m);
    marks = all.filter((k) => k.value !== null);
    unknown = all.filter((k) => k.value === null);
    axis = LB.axisOf(cells.map((c) => LB.score("value", c, m)), cells.flatMap((c) => [LB.score("ci_low", c, m), LB.score("ci_high", c, m)]), marks.map((k) => k.value));
    const runs = LB.runs ? cells.flatMap((c) => LB.runsOf[c].map((r) => LB.runValue(r, H.key.includes(m) ? m : H.headline)[0])).filter((v) => v !== null) : [];
    sparkRange = runs.length ? [Math.min(...runs), Math.max(...runs)] : [0, 1];
    if (sparkRange[0] === sparkRange[1]) sparkRange = [sparkRange[0] - 0.5, sparkRange[1] + 0.5];
  };
  const chosen = () => { const { base, more } = columns(); return [...base.filter((c) => !state.extra.has("-" + c.id)), ...more.filter((c) => state.extra.has(c.id))]; };
  const rows = () => {
    const wanted = state.text.toLowerCase().split(/\s+/).filter(Boolean), column = [...columns().base, ...columns().more].find((c) => c.id === state.sort) || columns().base[0];
    const found = LB.cellsOf[state.board].filter((c) => { const e = LB.entryOf(c), t = `${e.name} ${e.family} ${e.model || ""} ${e.what || ""}`.toLowerCase(); return !state.off.has(e.family) && wanted.every((w) => t.includes(w)); });
    const keys = new Map(found.map((c) => [c, column.read(c)]));
    return found.sort((x, y) => { const a = keys.get(x), b = keys.get(y); if (a === null || b === null) return (a === null) - (b === null) || places.get(x) - places.get(y); const d = column.text ? String(a).localeCompare(String(b)) : a - b; return (state.down ? -d : d) || places.get(x) - places.get(y); });
  };
  const table = () => {
    const list = chosen(), found = rows(), shown = found.slice(0, state.most);
    const sortBy = (id) => { const c = [...columns().base, ...columns().more].find((x) => x.id === id), firstDown = id === "value" || id === "interval" ? H.metrics[state.metric].direction === "max" : !(c.text || id === "place"); if (state.sort === id) state.down = !state.down; else { state.sort = id; state.down = firstDown; } table(); $("standings").querySelector(`th[data-id="${id}"] button`).focus(); };
    const heads = list.map((c) => el("th", { scope: "col", "data-id": c.id, class: c.class === "text" || c.class === "runs" ? "text" : c.class, title: c.title, "aria-sort": state.sort === c.id ? (state.down ? "descending" : "ascending") : null }, el("button", { type: "button", onclick: () => sortBy(c.id) }, c.name, c.arrow ? el("span", { class: "arrow", "aria-label": c.title }, ` ${c.arrow}`) : null), c.axis && axis ? LB.scaleHead(axis) : null));
    const line = (c) => el("tr", { class: LB.score("rank", c, state.metric) === 1 ? "first" : null, "data-entry": LB.entryOf(c).name }, ...list.map((k) => el("td", { class: k.class }, k.cell(c))));
    $("standings").replaceChildren(el("caption", { class: "skip" }, `${LB.boardNames[state.board]}, ${LB.fullName(state.metric)}`), el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...shown.map(line)));
    $("shown").textContent = found.length === LB.cellsOf[state.board].length ? `${found.length} entries` : `${found.length} of ${LB.cellsOf[state.board].length} entries`;
    $("more").hidden = found.length <= state.most;
    $("more").textContent = `show all ${found.length}`;
  };
  const columnMenu = () => {
    const { base, more } = columns();
    const box = (id, name, on) => el("label", {}, el("input", { type: "checkbox", checked: on, onchange: () => { if (state.extra.has(id)) state.extra.delete(id); else state.extra.add(id); table(); } }), name);
    $("column-list").replaceChildren(...base.slice(2).map((c) => box("-" + c.id, c.name, !state.extra.has("-" + c.id))), ...more.map((c) => box(c.id, `${c.name}${c.arrow ? " " + c.arrow : ""}`, state.extra.has(c.id))));
  };
  const familyButtons = () => {
    const families = [...new Set(LB.cellsOf[state.board].map((c) => LB.entryOf(c).family))].sort();
    $("families").replaceChildren(...(families.length > 1 ? families : []).map((f) => el("button", { type: "button", "aria-pressed": String(!state.off.has(f)), onclick: (event) => { if (state.off.has(f)) state.off.delete(f); else state.off.add(f); event.target.setAttribute("aria-pressed", String(!state.off.has(f))); table(); } }, f)));
  };

  // ---- one board -------------------------------------------------------------------------------------------------------
  const head = () => {
    const b = state.board, m = state.metric, board = H.boards[b], best = bestOf(b, m);
    $("one-title").textContent = LB.boardNames[b];
    $("badges").replaceChildren(...badges(b));
    $("one-text").textContent = `${H.kinds[board.kind] || ""} ${Math.max(0, ...LB.cellsOf[b].map((c) => H.cells.conditions[c]))} test conditions${board.units ? `, ${board.units} independent units` : ""}.`.trim();
    const flags = [];
    if (!board.complete) flags.push(`${board.done} of ${board.total} folds are there, so the board is not ranked as a whole; entries stand in the order of their value.`);
    if (board.noSignal) flags.push("No signal: two halves of the same condition hardly agree, so nothing is ranked.");
    if (board.sharedControl) flags.push("Shared control: truth and models use the same control cells, so correlations are inflated.");
    $("flags").replaceChildren(...flags.map((t) => el("p", { class: "flag" }, t)));
    const bound = (field, name, title) => { const v = LB.bound(field, b, m); return el("div", { title }, el("dt", {}, name), el("dd", {}, v === null ? LB.dash(LB.why(field, b, m)) : LB.num(v), el("small", {}, title))); };
    $("tiles").replaceChildren(
      el("div", {}, el("dt", {}, best && LB.score("rank", best[0], m) !== null ? "best entry" : board.complete ? "best value, not ranked" : "best so far"), el("dd", {}, best ? LB.num(best[1]) : LB.dash("no entry has a value"), el("small", {}, best ? LB.entryOf(best[0]).name : "no entry has a value"))),
      bound("train_mean_floor", "floor", "the mean of train"), bound("control_mean_floor", "control", "no change at all"), 
      ...(LB.scaleOf(b, m) ? [bound("baseline_mark", "baseline", "counts as 0"), bound("anchor_mark", "replicate anchor", "counts as 1")] : [bound("ceiling", "half ceiling", "half the cells for the rest"), bound("ceiling_noise_free", "noise-free", "the true effect itself")]),
      el("div", {}, el("dt", {}, "entries"), el("dd", {}, String(LB.cellsOf[b].length), el("small", {}, `${LB.cellsOf[b].reduce((n, c) => n + H.cells.runs[c], 0)} runs`))));
    const sample = (kind) => PF.svg("svg", { viewBox: "0 0 18 12", "aria-hidden": "true" }, PF.svg("line", { class: kind, x1: 9, x2: 9, y1: 0, y2: 12 }));
    $("marks-key").replaceChildren(...marks.map((k) => el("span", {}, sample(k.kind), `${k.name} ${LB.num(k.value)}`)), ...unknown.map((k) => el("span", {}, `${k.name} `, LB.dash(LB.why(k.field, b, m)))));
  };
  const heat = async () => {
    const b = state.board, c = await LB.conditions(b), h = H.headline;
    $("heat-title").textContent = `By perturbation: ${LB.fullName(h)} ${LB.arrow(h)}`;
    if (!c) { $("heat-text").textContent = ""; $("heat").replaceChildren(el("p", { class: "quiet" }, "\u2013 This page had no room for values by condition.")); return; }
    if (state.board !== b) return;
    const n = c.keys.length, perts = [...new Set(c.keys.map(LB.perturbation))], where = new Map(perts.map((p, i) => [p, i])), of = c.keys.map((k) => where.get(LB.perturbation(k)));
    const cells = c.cells.map((cell, i) => [cell, i]).sort((x, y) => (places.get(x[0]) ?? 1e9) - (places.get(y[0]) ?? 1e9)).slice(0, 60);
    const means = cells.map(([, i]) => { const sum = new Float64Array(perts.length), count = new Float64Array(perts.length); for (let j = 0; j < n; j++) { const v = c.value[i * n + j]; if (!Number.isNaN(v)) { sum[of[j]] += v; count[of[j]]++; } } return perts.map((_, p) => (count[p] ? sum[p] / count[p] : null)); });
    const stat = perts.map((_, p) => { const known = means.map((r) => r[p]).filter((v) => v !== null), mean = known.reduce((x, y) => x + y, 0) / (known.length || 1); return { mean: known.length ? mean : null, spread: known.reduce((x, v) => x + (v - mean) ** 2, 0) / (known.length || 1) }; });
    const order = perts.map((_, p) => p).sort((x, y) => (state.heat === "name" ? perts[x].localeCompare(perts[y], undefined, { numeric: true }) : state.heat === "spread" ? stat[y].spread - stat[x].spread : LB.better(h, stat[x].mean, stat[y].mean)) || x - y).slice(0, 400);
    $("heat-text").textContent = `${perts.length} perturbations, ${n} conditions${c.cells.length > cells.length ? `; the first ${cells.length} of ${c.cells.length} entries` : ""}${perts.length > order.length ? `; the first ${order.length}` : ""}. Click a name for its values.`;
    LB.heat($("heat"), { name: "scores by entry and perturbation", rows: cells.map(([cell]) => LB.entryOf(cell).name), columns: order.map((p) => perts[p]), values: means.map((r) => order.map((p) => r[p])), better: H.metrics[h].direction, target: H.metrics[h].target,
      why: (i, j) => [...new Set(c.keys.flatMap((k, q) => (of[q] === order[j] ? [c.reasons[c.reason[cells[i][1] * n + q] - 1] || "not scored"] : [])))].join("; "), row: (i) => LB.aboutEntry(cells[i][0], state.metric), column: (j) => LB.aboutPerturbation(b, perts[order[j]]) });
  };
  const cost = () => {
    const cells = LB.cellsOf[state.board], m = state.metric, known = costs.filter((k) => cells.some((c) => costValue(c, k) > 0));
    if (!known.includes(state.cost)) state.cost = known.includes("cpu_seconds") ? "cpu_seconds" : known[0];
    options($("cost-of"), known.map((k) => [k, costNames[k]]), state.cost);
    const drawn = cells.filter((c) => costValue(c, state.cost) > 0 && LB.score("value", c, m) !== null), ranked = drawn.some((c) => LB.score("rank", c, m) !== null);
    const used = ranked ? drawn.filter((c) => LB.score("rank", c, m) !== null) : drawn;
    const left = cells.length - used.length;
    $("cost-text").textContent = left ? `${left} of ${cells.length} entries are not drawn: no cost on record, no value, or no rank.` : "";
    if (!used.length) { $("cost").replaceChildren(el("p", { class: "quiet" }, `\u2013 ${known.length ? "no entry has both a value and this cost" : "no run recorded its cost"}`)); return; }
    LB.cost($("cost"), { name: "rank against cost", down: true, xLabel: costNames[state.cost], yLabel: ranked ? "rank" : "place by value", points: used.map((c) => ({ x: costValue(c, state.cost), y: ranked ? LB.score("rank", c, m) : places.get(c), label: LB.entryOf(c).name, group: LB.entryOf(c).family })), open: (i) => LB.aboutEntry(used[i], m) });
  };
  const levels = [0.5, 0.8, 0.9, 0.95];
  const calibration = () => {
    const at = (kind, l) => H.metrics.findIndex((x) => x.panel === "uncertainty" && x.name === `${kind}coverage_${l}`), get = (kind, c) => levels.map((l) => (at(kind, l) < 0 ? null : LB.score("value", c, at(kind, l))));
    const why = (kind, c) => (at(kind, 0.9) < 0 ? "not scored by panel uncertainty" : LB.why("value", c, at(kind, 0.9)));
    const cells = [...LB.cellsOf[state.board]].sort((x, y) => places.get(x) - places.get(y));
    LB.calibration($("calibration"), { items: cells.map((c) => ({ label: LB.entryOf(c).name, levels, before: get("", c), after: get("conformal_", c), why: why("", c), whyAfter: why("conformal_", c) })) });
  };
  const overview = () => {
    const m = state.metric, shown = matching(), entries = H.entries.map((e, i) => i);
    const cellAt = new Map(H.cells.board.map((b, c) => [b + ":" + H.cells.entry[c], c]));
    const share = (b, e) => { const c = cellAt.get(b + ":" + e); if (c === undefined) return null; const p = LB.score("rank", c, m), n = LB.cellsOf[b].length; if (p !== null) return n > 1 ? (p - 1) / (n - 1) : 0; if (LB.score("value", c, m) === null) return null; return null; };
    const strength = entries.map((e) => { const own = shown.map((b) => { const c = cellAt.get(b + ":" + e), v = c === undefined ? null : LB.score("value", c, m); if (v === null) return null; const all = LB.cellsOf[b].map((x) => LB.score("value", x, m)).filter((x) => x !== null); return all.filter((x) => LB.better(m, x, v) < 0).length / Math.max(all.length - 1, 1); }).filter((v) => v !== null); return own.length ? own.reduce((x, y) => x + y, 0) / own.length + (shown.length - own.length) / 1e3 : 9; });
    entries.sort((x, y) => strength[x] - strength[y] || H.entries[x].name.localeCompare(H.entries[y].name));
    const rows = entries.filter((e) => strength[e] < 9).slice(0, 120);
    $("overview-text").textContent = `${LB.fullName(m)} (${LB.better_text(m)}): entries by their mean place, boards across. The stronger the colour, the better the place; on boards with missing folds it is the order of values so far. Click a board or an entry.`;
    const place = (b, c) => { const v = LB.score("value", c, m), all = LB.cellsOf[b].map((x) => LB.score("value", x, m)).filter((x) => x !== null); return all.filter((x) => LB.better(m, x, v) < 0).length / Math.max(all.length - 1, 1); };
    const values = rows.map((e) => shown.map((b) => { const c = cellAt.get(b + ":" + e); return c === undefined || LB.score("value", c, m) === null ? null : share(b, e) ?? place(b, c); }));
    LB.heat($("overview-map"), { name: "place of entries by board", rows: rows.map((e) => H.entries[e].name), columns: shown.map((b) => LB.boardNames[b]), values, better: "min", ends: ["last", "first"], text: (i, j) => LB.num(LB.score("value", cellAt.get(shown[j] + ":" + rows[i]), m)),
      why: (i, j) => { const c = cellAt.get(shown[j] + ":" + rows[i]); return c === undefined ? "no run on this board" : LB.why("value", c, m); },
      note: (i, j) => { const c = cellAt.get(shown[j] + ":" + rows[i]); if (c === undefined || LB.score("value", c, m) === null) return ""; const r = LB.score("rank", c, m); return `${LB.fullName(m)} ${LB.num(LB.score("value", c, m))}\n${r === null ? `not ranked: ${LB.why("rank", c, m)}` : `rank ${r} of ${LB.cellsOf[shown[j]].length}`}`; },
      row: (i) => { const c = shown.map((b) => cellAt.get(b + ":" + rows[i])).find((x) => x !== undefined); LB.aboutEntry(c, m); }, column: (j) => go({ board: shown[j] }) });
  };

  const draw = async () => {
    await LB.need(state.metric);
    write();
    fillChoices();
    listBoards();
    $("overview").hidden = state.board !== null;
    $("one").hidden = state.board === null;
    if (state.board === null) { overview(); return; }
    prepare(); head(); familyButtons(); columnMenu(); table();
    requestAnimationFrame(() => { heat(); cost(); calibration(); });
  };
  const go = (change) => {
    Object.assign(state, { most: 100, sort: "place", down: false }, change);
    draw();
    if ("board" in change && matchMedia("(max-width: 64rem)").matches) $("board").scrollIntoView();
  };
  const narrow = () => { const shown = matching(); if (state.board !== null && !shown.includes(state.board)) state.board = shown.length ? shown[0] : null; };
  $("pick-data").addEventListener("change", (event) => { state.data = event.target.value; if (!matching().length) state.kind = ""; narrow(); draw(); });
  $("pick-kind").addEventListener("change", (event) => { state.kind = event.target.value; if (!matching().length) state.data = ""; narrow(); draw(); });
  $("pick-panel").addEventListener("change", (event) => go({ metric: headlineOf(event.target.value) }));
  $("pick-metric").addEventListener("change", (event) => go({ metric: Number(event.target.value) }));
  $("choose").addEventListener("submit", (event) => event.preventDefault());
  $("filter").addEventListener("input", (event) => { state.text = event.target.value; table(); });
  $("filter").addEventListener("keydown", (event) => { if (event.key === "Escape") { event.target.value = state.text = ""; table(); } });
  document.addEventListener("keydown", (event) => { if (event.key === "/" && state.board !== null && !$("drawer").open && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); $("filter").focus(); } });
  document.addEventListener("click", (event) => { if ($("columns").open && !$("columns").contains(event.target)) $("columns").open = false; });
  $("columns").addEventListener("keydown", (event) => { if (event.key === "Escape") { $("columns").open = false; $("columns").querySelector("summary").focus(); } });
  $("more").addEventListener("click", () => { state.most = Infinity; table(); });
  $("save").addEventListener("click", () => { const m = state.metric, fields = ["rank", "value", "ci_low", "ci_high", "diff", "diff_low", "diff_high", "n_undefined"]; PF.save(`${H.boards[state.board].board}-${LB.fullName(m)}`, ["board", "panel", "metric", "entry", "family", ...fields], rows().map((c) => [H.boards[state.board].board, H.metrics[m].panel, H.metrics[m].name, LB.entryOf(c).name, LB.entryOf(c).family, ...fields.map((f) => LB.score(f, c, m))])); });
  $("heat-order").addEventListener("change", (event) => { state.heat = event.target.value; heat(); });
  $("cost-of").addEventListener("change", (event) => { state.cost = event.target.value; cost(); });
  $("about-metric").addEventListener("click", () => LB.aboutMetric(state.metric));
  $("about-data").addEventListener("click", () => LB.aboutBoard(state.board));
  $("about-calibration").addEventListener("click", () => LB.aboutCalibration());
  addEventListener("hashchange", () => { read(); draw(); });
  if (matchMedia("(max-width: 64rem)").matches) $("boards").open = false;
  $("choose").hidden = false;
  read();
  await draw();
  document.documentElement.dataset.ready = "true";
})();
