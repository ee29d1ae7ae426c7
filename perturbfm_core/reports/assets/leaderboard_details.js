/* The drawer of the leaderboard page: an entry, a perturbation, a metric, or a data set in full. */
"use strict";
(() => {
  const { el } = PF;
  const drawer = document.getElementById("drawer"), body = document.getElementById("drawer-body"), title = document.getElementById("drawer-title");
  document.getElementById("drawer-close").addEventListener("click", () => drawer.close());
  drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
  const open = (name, ...content) => {
    PF.hide();
    title.textContent = name;
    body.replaceChildren(...content.filter((c) => c !== null && c !== undefined));
    if (!drawer.open) drawer.showModal();
    drawer.scrollTop = 0;
    PF.redraw();
  };
  const facts = (pairs) => el("dl", { class: "facts" }, ...pairs.filter((p) => p[1] !== null && p[1] !== undefined && p[1] !== "").flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
  const dash = (why) => el("span", { class: "none", title: why, tabindex: 0, role: "img", "aria-label": `no value: ${why}` }, "\u2013");
  const value = (v, why) => (v === null || v === undefined ? dash(why) : document.createTextNode(LB.num(v)));
  const address = (url) => (/^https?:\/\//i.test(url || "") ? el("a", { href: url, rel: "noopener noreferrer" }, url) : url || null);
  const fullName = (m) => `${LB.head.metrics[m].panel}.${LB.head.metrics[m].name}`;
  const arrow = (m) => ({ max: "\u2191", min: "\u2193" }[LB.head.metrics[m].direction] || "\u25ce");
  const better = (m) => { const d = LB.head.metrics[m]; return d.direction === "max" ? "higher is better" : d.direction === "min" ? "lower is better" : d.target === null || d.target === undefined ? "describes the data, has no best value" : `nearest to ${d.target} is better`; };
  const boardName = (b) => LB.boardNames[b];
  const report = (folder) => el("a", { href: `${LB.settings.runs}${encodeURIComponent(folder)}/report.html` }, "report");
  const simple = (columns, rows) => el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((c, i) => el("th", { scope: "col", class: i ? null : "text" }, c)))), el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((c, i) => el("td", { class: i ? null : "text" }, c)))))));
  /* A sortable table of the drawer: columns [{name, text, read(row), why(row), open(row)}]; the first `most` rows are shown. */
  const table = (host, name, columns, rows, most = 60) => {
    let shown = most, list = rows;
    const body = el("tbody"), more = el("button", { type: "button", onclick: () => { shown = Infinity; draw(); } });
    const cell = (c, row) => { const v = c.read(row); return el("td", { class: c.text ? "text" : null }, c.open ? el("button", { type: "button", class: "link", onclick: () => c.open(row) }, v) : c.text ? v : value(v, c.why(row))); };
    const draw = () => { body.replaceChildren(...list.slice(0, shown).map((row) => el("tr", {}, ...columns.map((c) => cell(c, row))))); more.hidden = list.length <= shown; more.textContent = `show all ${list.length}`; };
    const heads = columns.map((c, at) => el("th", { scope: "col", class: c.text ? "text" : null }, el("button", { type: "button", onclick: () => {
      const down = heads[at].hasAttribute("aria-sort") ? heads[at].getAttribute("aria-sort") === "ascending" : !c.text;
      for (const h of heads) h.removeAttribute("aria-sort");
      heads[at].setAttribute("aria-sort", down ? "descending" : "ascending");
      list = [...rows].sort((x, y) => { const a = c.read(x), b = c.read(y); if (a === null || b === null) return (a === null) - (b === null); const d = c.text ? a.localeCompare(b, undefined, { numeric: true }) : a - b; return down ? -d : d; });
      draw();
    } }, c.name)));
    host.replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)), el("div", { class: "under" }, el("span", {}, `${rows.length} rows`), more));
    draw();
  };
  const perturbation = (key) => key.split("|")[1] || key;
  const condition = (key) => { const p = key.split("|"), rest = p.slice(2).filter(Boolean); return `${p[1] || key}${p[0] ? " in " + p[0] : ""}${rest.length ? " (" + rest.join(", ") + ")" : ""}`; };

  // ---- what a metric is ------------------------------------------------------------------------------------------------
  const aboutMetric = (m) => {
    const d = LB.head.metrics[m], panel = LB.head.panels.find((p) => p.name === d.panel) || {};
    const games = (d.games || []).map((g) => el("li", {}, `${g.what} It improved in ${g.cases} of ${g.of} cases${g.entry ? ` of entry ${g.entry}` : ""}${g.before ? `, on average from ${g.before} to ${g.after}` : ""}.`));
    open(fullName(m), el("p", { class: "verdict" }, d.what || "A metric that is not registered here."),
      facts([["Direction", better(m)], ["Range", d.bounds ? `${d.bounds[0] === null ? "unbounded" : d.bounds[0]} to ${d.bounds[1] === null ? "unbounded" : d.bounds[1]}` : null], ["A perfect prediction has", d.best === null || d.best === undefined ? null : String(d.best)], ["Over conditions", { mean: "mean of the conditions' values", ratio: "ratio of sums over conditions", set: "one statistic of all conditions together; a single condition has none" }[d.aggregate]], ["Missing where", d.undefined], ["Needs", { cells: "data of single cells", variance: "a predicted variance", conditions: "means of conditions" }[d.needs]], ["Defined by", d.source], ["Panel", `${d.panel}${panel.source ? `, from ${panel.source}` : ""}`], ["Version", d.version]]),
      m === LB.head.headline ? el("p", {}, "This is the headline of the benchmark: without the mean of the train conditions what is left tells conditions apart, so that the mean effect, which is easy to predict, earns nothing.") : null,
      el("h3", {}, "What it is read against"), el("p", {}, "The floor is what the mean of the train conditions scores, which knows nothing of the condition. The half ceiling is the score of one half of a condition's cells for the other half; a model that learns from many conditions may be above it. The noise-free mark is what the true effect itself could be expected to score; no model is above it, apart from chance."),
      d.panel === "vcc2026" ? el("p", {}, "Scores of this panel count from the baseline, the mean response of the context, to replicates of the measured cells: 0 and 1. Of the metrics behind them the page shows what either has.") : null,
      el("h3", {}, "What raises it without knowing more"), games.length ? el("ul", {}, ...games) : el("p", {}, (d.name === "nll" && d.panel === "uncertainty" ? "Variances near 0 at genes that do not change, which submissions are warned of beside the entry. " : "") + "None of the attacks of perturbfm metrics probe is on record as raising it in most of the demo's cases. Fewer defined conditions do not help: such an entry ranks behind those that are defined in more."));
  };

  // ---- data and board --------------------------------------------------------------------------------------------------
  const aboutBoard = (b) => {
    const board = LB.head.boards[b], d = LB.head.datasets[board.dataset];
    open(boardName(b), el("p", { class: "verdict" }, d.what || d.name),
      facts([["Data set", d.name], ["Source", address(d.source)], ["Licence", d.licence], ["Size", d.n_obs ? `${d.n_obs.toLocaleString("en")} ${d.level === "condition" ? "profiles" : "cells"}, ${d.n_genes.toLocaleString("en")} genes` : null], ["Values", d.space], ["Content", d.data_sha256 ? el("code", {}, d.data_sha256.slice(0, 16)) : null]]),
      el("h3", {}, "Board"), facts([["Kind of split", board.kind.replaceAll("_", " ")], ["What is held out", LB.head.kinds[board.kind]], ["Intervals resample", board.unit ? `${board.units} units (${board.unit})` : null], ["Folds", `${board.done} of ${board.total}${board.complete ? "" : ": not ranked as a whole"}`], ["Conditions", board.n_train && board.n_test ? `${board.n_train} in train and ${board.n_test} in test, summed over all folds` : null], ["Name", el("code", {}, board.board)]]),
      board.noSignal ? el("p", { class: "flag" }, "No signal: two halves of the same condition hardly agree, so nothing is ranked.") : null,
      board.sharedControl ? el("p", { class: "flag" }, "Shared control: truth and models use the same control cells, so correlations are inflated.") : null);
  };

  // ---- one entry on a board --------------------------------------------------------------------------------------------
  const aboutEntry = async (cell, metric) => {
    const entry = LB.entryOf(cell), b = LB.head.cells.board[cell], name = boardName(b);
    const conditions = await LB.conditions(b), headline = LB.head.headline;
    const rows = LB.head.panels.map((p) => LB.head.metrics.findIndex((m) => m.panel === p.name && m.name === p.headline)).filter((m) => m >= 0 && LB.has(m));
    if (!rows.includes(metric)) rows.unshift(metric);
    const mates = LB.cellsOf[b];
    const scores = simple(["metric", "value", "95 % interval", "rank"], rows.map((m) => [`${fullName(m)} ${arrow(m)}`, value(LB.score("value", cell, m), LB.why("value", cell, m)), LB.score("ci_low", cell, m) === null ? dash(LB.why("ci_low", cell, m)) : `${LB.num(LB.score("ci_low", cell, m))} to ${LB.num(LB.score("ci_high", cell, m))}`, LB.score("rank", cell, m) === null ? dash(LB.why("rank", cell, m)) : `${LB.score("rank", cell, m)} of ${mates.length}`]));
    const runs = LB.runsOf[cell].map((r) => [LB.runs.created[r].replace("T", " "), String(LB.runs.seed[r]), LB.runs.fold[r] === null ? "\u2014" : String(LB.runs.fold[r]), value(...runValue(r, headline)), report(LB.runs.folder[r])]);
    const elsewhere = LB.head.cells.entry.flatMap((e, c) => (e === LB.head.cells.entry[cell] && c !== cell ? [c] : [])).slice(0, 200);
    const host = el("div", {});
    open(entry.name, el("p", { class: "quiet" }, `${entry.family}${entry.model && entry.model !== entry.name ? `, model ${entry.model}` : ""} on ${name}`), entry.what ? el("p", { class: "verdict" }, entry.what) : null,
      facts([["Inputs", entry.inputs], ["Parameters", entry.params && Object.keys(entry.params).length ? Object.entries(entry.params).map(([k, v]) => `${k} = ${v}`).join(", ") : null], ["Note", entry.note], ["Where from", address(entry.url)]]),
      el("h3", {}, "Scores on this board"), scores,
      el("h3", {}, `By condition: ${fullName(headline)}`), host,
      el("h3", {}, "Runs"), runs.length ? simple(["made (UTC)", "seed", "fold", fullName(headline), "report"], runs) : el("p", { class: "quiet" }, "This page had no room for the runs."),
      elsewhere.length ? el("h3", {}, `On other boards: ${fullName(metric)}`) : null,
      elsewhere.length ? simple(["board", "value", "rank"], elsewhere.map((c) => [boardName(LB.head.cells.board[c]), value(LB.score("value", c, metric), LB.why("value", c, metric)), LB.score("rank", c, metric) === null ? dash(LB.why("rank", c, metric)) : String(LB.score("rank", c, metric))])) : null);
    const at = conditions ? conditions.cells.indexOf(cell) : -1;
    if (at < 0) { host.append(el("p", { class: "quiet" }, conditions ? "No condition of this entry was scored." : "This page had no room for values by condition.")); return; }
    const n = conditions.keys.length, best = LB.score("best", cell, headline), other = best === null ? -1 : conditions.cells.findIndex((c) => LB.head.cells.entry[c] === best);
    const orNull = (v) => (Number.isNaN(v) ? null : v);
    const get = (i, j) => (i < 0 ? null : orNull(conditions.value[i * n + j])), why = (i, j) => conditions.reasons[conditions.reason[i * n + j] - 1] || "not scored";
    const list = conditions.keys.map((k, j) => j).sort((x, y) => LB.better(headline, get(at, x), get(at, y)));
    const gain = (j) => (get(at, j) === null || get(other, j) === null ? null : Number((get(at, j) - get(other, j)).toFixed(4)));
    const beside = other < 0 || other === at ? [] : [{ name: LB.head.entries[best].name, read: (j) => get(other, j), why: (j) => why(other, j) }, { name: "gain", read: gain, why: (j) => why(get(at, j) === null ? at : other, j) }];
    table(host, "values by condition", [{ name: "condition", text: true, read: (j) => condition(conditions.keys[j]) }, { name: "value", read: (j) => get(at, j), why: (j) => why(at, j) }, ...beside], list);
  };
  const runValue = (r, metric) => {
    const at = LB.head.key.indexOf(metric), v = at < 0 || !LB.runs ? NaN : LB.runs.value[r * LB.head.key.length + at];
    return [Number.isNaN(v) ? null : v, "undefined in every condition of this run"];
  };

  // ---- one perturbation ------------------------------------------------------------------------------------------------
  const aboutPerturbation = async (b, pert) => {
    const c = await LB.conditions(b), n = c.keys.length, headline = LB.head.headline;
    const columns = c.keys.flatMap((k, j) => (perturbation(k) === pert ? [j] : []));
    const host = el("div", {});
    open(pert, el("p", { class: "quiet" }, `${fullName(headline)} (${better(headline)}) of every entry on ${boardName(b)}, ${columns.length === 1 ? "one condition" : `${columns.length} conditions`}`), host);
    const get = (i, j) => { const v = c.value[i * n + j]; return Number.isNaN(v) ? null : v; }, why = (i, j) => c.reasons[c.reason[i * n + j] - 1] || "not scored";
    const mean = (i) => { const known = columns.map((j) => get(i, j)).filter((v) => v !== null); return known.length ? Number((known.reduce((x, y) => x + y, 0) / known.length).toFixed(4)) : null; };
    const whys = (i) => [...new Set(columns.filter((j) => get(i, j) === null).map((j) => why(i, j)))].join("; ");
    const rows = c.cells.map((cell, i) => i).sort((x, y) => LB.better(headline, mean(x), mean(y)));
    const each = columns.length > 1 ? columns.map((j) => ({ name: condition(c.keys[j]).replace(`${pert} in `, ""), read: (i) => get(i, j), why: (i) => why(i, j) })) : [];
    table(host, "values by entry", [{ name: "entry", text: true, read: (i) => LB.entryOf(c.cells[i]).name, open: (i) => aboutEntry(c.cells[i], headline) }, { name: columns.length > 1 ? "mean" : "value", read: mean, why: whys }, ...each], rows);
  };

  const aboutCalibration = () => open("Calibration", el("p", { class: "verdict" }, "An interval of level 90 % should hold 90 % of the observed changes. A curve left of the diagonal means intervals that are too narrow, so a model that is too sure; right of it they are too wide."), el("p", {}, "The Gaussian intervals come from the predicted variance alone. The calibrated ones are widened or narrowed by residuals of held-out train conditions. Points are means over test conditions at the levels 50, 80, 90 and 95 %."), el("p", {}, "Wide intervals hold everything: read coverage together with uncertainty.conformal_width_0.9 and uncertainty.crps."));

  Object.assign(LB, { aboutMetric, aboutBoard, aboutEntry, aboutPerturbation, aboutCalibration, dash, fullName, arrow, better_text: better, perturbation, condition, runValue, report });
})();
