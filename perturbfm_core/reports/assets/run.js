/* The report of one run: draws what the data of the page hold. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), at = (id) => document.getElementById(id);
  const detail = data.detail, signed = (v, digits) => (v > 0 ? "+" : "") + PF.number(v, digits);

  // ---- packed numbers ----------------------------------------------------------------------------------------------
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const half = (() => {
    const table = new Float32Array(1 << 16);
    for (let i = 0; i < 1 << 16; i++) {
      const e = (i >> 10) & 31, f = i & 1023, sign = i & 0x8000 ? -1 : 1;
      table[i] = sign * (e === 0 ? f * 2 ** -24 : e === 31 ? (f ? NaN : Infinity) : (1 + f / 1024) * 2 ** (e - 15));
    }
    return (text) => { const raw = new DataView(bytes(text)), out = new Float32Array(raw.byteLength / 2); for (let i = 0; i < out.length; i++) out[i] = table[raw.getUint16(2 * i, true)]; return out; };
  })();
  let unpacked = null;
  const all = () => {
    if (!unpacked) {
      unpacked = { observed: half(detail.observed), predicted: half(detail.predicted), error: half(detail.error), spread: detail.spread ? half(detail.spread) : null };
      if (detail.index) { const raw = new DataView(bytes(detail.index)); unpacked.index = Uint32Array.from({ length: raw.byteLength / 4 }, (_, i) => raw.getUint32(4 * i, true)); }
    }
    return unpacked;
  };
  const of = (i) => {
    const d = all(), from = i * detail.k, to = from + detail.k, part = (x) => (x ? Array.from(x.subarray(from, to)) : null);
    const index = d.index ? Array.from(d.index.subarray(from, to)) : null;
    return { genes: index ? index.map((g) => detail.genes[g]) : detail.genes, observed: part(d.observed), predicted: part(d.predicted), error: part(d.error), spread: part(d.spread) };
  };

  // ---- one condition -----------------------------------------------------------------------------------------------
  /* -log10 of the two-sided p of a normal z; beyond 6 from the tail's expansion, where p itself would vanish. */
  const significance = (z) => {
    z = Math.abs(z);
    if (z > 6) return Math.min((z * z) / 2 / Math.LN10 + Math.log10(z * Math.sqrt(Math.PI / 2)) - Math.log10(1 - 1 / (z * z)), 300);
    const t = 1 / (1 + 0.3275911 * (z / Math.SQRT2));
    const p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp((-z * z) / 2);
    return -Math.log10(Math.min(Math.max(p, 1e-300), 1));
  };
  const SIGNIFICANT = 3, CHANGE = 0.1;
  /* The names of the six points of largest value. */
  const most = (names, values) => values.map((v, i) => [i, Math.abs(v)]).sort((a, b) => b[1] - a[1]).slice(0, 6).filter((p) => p[1] > 0).map(([i]) => [i, names[i]]);
  const volcano = (id, title, genes, change, sd, none) => {
    const host = at(id);
    const kept = genes.map((_, i) => i).filter((i) => sd && sd[i] > 0);
    if (!kept.length) { host.replaceChildren(PF.el("p", { class: "chart-title", text: title }), PF.el("p", { class: "quiet small", text: none })); return; }
    const x = kept.map((i) => change[i]), y = kept.map((i) => significance(change[i] / sd[i]));
    const group = x.map((v, i) => (y[i] < SIGNIFICANT || Math.abs(v) < CHANGE ? 0 : v > 0 ? 1 : 2));
    PF.scatter(host, {
      title, points: { x, y, group }, yZero: true, xLabel: "change (log1p)", yLabel: "\u2212log10 p", tags: most(kept.map((i) => genes[i]), y.map((v, i) => (group[i] ? v : 0))),
      groups: [{ name: "other", colour: "var(--s6)", opacity: 0.4 }, { name: "up", colour: "var(--up)" }, { name: "down", colour: "var(--down)" }],
      guides: [{ y: SIGNIFICANT, label: "p = 0.001" }, { x: CHANGE }, { x: -CHANGE }],
      text: (i) => `${genes[kept[i]]}\nchange ${signed(x[i])}\n\u2212log10 p ${PF.number(y[i], 3)}`,
    });
  };
  const select = at("condition-select");
  let chosen = -1;
  const choose = (i) => {
    if (i === chosen || i < 0 || i >= detail.keys.length) return;
    chosen = i;
    select.value = String(i);
    const c = of(i), n = c.genes.length;
    const mean = (v) => v.reduce((a, b) => a + b, 0) / n, mo = mean(c.observed), mp = mean(c.predicted);
    let sxy = 0, sxx = 0, syy = 0, signs = 0;
    for (let g = 0; g < n; g++) { const a = c.observed[g] - mo, b = c.predicted[g] - mp; sxy += a * b; sxx += a * a; syy += b * b; signs += Math.sign(c.observed[g]) === Math.sign(c.predicted[g]) ? 1 : 0; }
    const slope = sxx > 0 ? sxy / sxx : null;
    at("condition-facts").textContent = `${detail.titles[i]}: ${data.headline} ${PF.number(detail.values[i])}, rank ${detail.keys.length - i} of ${detail.keys.length}; ${detail.cells[i]} cells; predicted size of change ${slope === null ? "\u2013" : Math.round(100 * slope) + " %"} of the observed (slope); same sign in ${Math.round((100 * signs) / n)} % of ${n} genes.`;
    PF.scatter(at("scatter"), {
      title: "Predicted against observed change", points: { x: c.observed, y: c.predicted }, diagonal: true, square: true, xLabel: "observed (log1p)", yLabel: "predicted (log1p)", tags: most(c.genes, c.observed.map((v, g) => c.predicted[g] - v)),
      text: (g) => `${c.genes[g]}\nobserved ${signed(c.observed[g])}\npredicted ${signed(c.predicted[g])}`,
    });
    volcano("volcano-observed", "Observed volcano", c.genes, c.observed, c.error, "The sampling variance of this observation is unknown.");
    volcano("volcano-predicted", "Predicted volcano", c.genes, c.predicted, c.spread, "The prediction came without a variance, so that its changes have no significance.");
    const order = c.genes.map((_, g) => g).sort((a, b) => Math.abs(c.observed[b]) - Math.abs(c.observed[a]));
    PF.table(at("genes"), {
      name: "genes of " + detail.titles[i], most: 20,
      columns: [{ name: "gene", text: true }, { name: "observed" }, { name: "standard error" }, { name: "predicted" }, ...(c.spread ? [{ name: "predicted sd" }] : []), { name: "predicted \u2212 observed" }],
      rows: order.map((g) => [c.genes[g], c.observed[g], c.error[g], c.predicted[g], ...(c.spread ? [c.spread[g]] : []), c.predicted[g] - c.observed[g]].map((v) => (typeof v === "number" ? (Number.isFinite(v) ? Number(v.toPrecision(4)) : null) : v))),
    });
  };
  const defined = detail.values.filter((v) => v !== null).length;
  const pick = (share) => choose(Math.round(share * Math.max(defined - 1, 0)));
  const open = (key) => {
    const i = detail.keys.indexOf(key), panel = at("condition");
    panel.hidden = false;
    panel.open = true;
    if (i >= 0) choose(i);
    panel.scrollIntoView({ block: "start" });
    panel.querySelector("summary").focus({ preventScroll: true });
  };
  detail.titles.forEach((title, i) => select.append(PF.el("option", { value: i, text: `${title} (${PF.number(detail.values[i], 3)})` })));
  select.addEventListener("change", () => choose(Number(select.value)));
  for (const b of document.querySelectorAll("[data-pick]")) b.addEventListener("click", () => pick(Number(b.dataset.pick)));
  for (const b of document.querySelectorAll("[data-step]")) b.addEventListener("click", () => choose(Math.max(0, Math.min(detail.keys.length - 1, chosen + Number(b.dataset.step)))));
  for (const b of document.querySelectorAll("[data-condition]")) {
    b.disabled = !detail.keys.includes(b.dataset.condition);
    b.addEventListener("click", () => open(b.dataset.condition));
  }

  // ---- what is drawn when its panel opens --------------------------------------------------------------------------
  const drawn = {
    condition: () => { if (chosen < 0) pick(0.5); },
    heat: () => PF.heatmap(at("heatmap"), { rows: data.heatmap.rows, columns: data.heatmap.columns, limit: data.heatmap.limit, name: "observed and predicted changes", panels: [{ title: "Observed", values: data.heatmap.observed }, { title: "Predicted", values: data.heatmap.predicted }] }),
    pca: () => {
      const c = data.components;
      if (!c) return;
      const n = c.titles.length, x = [...c.observed[0], ...c.predicted[0]], y = [...c.observed[1], ...c.predicted[1]];
      PF.scatter(at("components"), {
        points: { x, y, group: x.map((_, i) => (i < n ? 0 : 1)) }, height: 380, xLabel: `first component (${c.share[0]} %)`, yLabel: c.share.length > 1 ? `second component (${c.share[1]} %)` : "", name: "principal components",
        groups: [{ name: "observed", colour: "var(--s1)", size: 6 }, { name: "predicted", colour: "var(--s2)", size: 6 }], text: (i) => `${c.titles[i % n]}\n${i < n ? "observed" : "predicted"}`,
      });
    },
    sets: () => { if (data.sets) PF.table(at("sets-table"), { name: "gene sets", columns: [{ name: "gene set", text: true, wrap: true }, { name: "file", text: true }, { name: "genes" }, { name: "share of other genes with smaller errors" }, { name: "p", exact: true }, { name: "adjusted p", exact: true }], rows: data.sets }); },
    conditions: () => {
      const t = data.tables.conditions, keys = new Map(t.rows.map((r, i) => [r, t.keys[i]]));
      const columns = t.columns.map((c, j) => (j === 0 ? { ...c, action: (row) => open(keys.get(row)) } : c));
      PF.table(at("conditions-table"), { name: "conditions", columns, rows: t.rows, most: 100 });
    },
    training: () => {
      const host = at("curves");
      if (!host || host.childElementCount) return;
      for (const [key, title] of [["loss", "Training loss"], ["validation", "Validation score"]]) {
        const with_ = data.training.filter((c) => c[key]);
        if (!with_.length) continue;
        const box = PF.el("div");
        host.append(box);
        const series = with_.map((c, i) => ({ name: c.name, x: c.epochs, y: c[key], colour: `var(--s${(i % 6) + 1})`, text: (e) => `${c.name}\nepoch ${c.epochs[e]}: ${PF.number(c[key][e])}${c.epochs[e] === c.best ? "\nkept" : ""}` }));
        const kept = with_.filter((c) => c.epochs.includes(c.best)).map((c) => ({ x: [c.best], y: [c[key][c.epochs.indexOf(c.best)]], colour: `var(--s${(with_.indexOf(c) % 6) + 1})`, dots: 4.5, text: () => `${c.name}\nkept: epoch ${c.best}` }));
        PF.lines(box, { title, series: [...series, ...kept], marks: with_.length === 1 ? [{ x: with_[0].best, label: "kept" }] : with_.map((c) => ({ x: c.best })), xLabel: "epoch", height: 260 });
      }
    },
    uncertainty: () => {
      const c = data.calibration;
      if (!c || at("reliability").childElementCount) return;
      PF.lines(at("reliability"), { title: "Reliability", xLabel: "nominal coverage", yLabel: "observed coverage", xRange: [0, 1], yRange: [0, 1], series: [{ name: "Gaussian", x: c.nominal, y: c.observed, colour: "var(--s1)" }, { name: "ideal", x: [0, 1], y: [0, 1], colour: "var(--strong)", dashed: true }, ...(c.calibrated[0].length ? [{ name: "calibrated", x: c.calibrated[0], y: c.calibrated[1], colour: "var(--s2)", dots: 4.5 }] : [])] });
      const n = c.pit.length;
      PF.lines(at("pit"), { title: "Probability integral transform (Gaussian)", xLabel: "predicted probability of at most the observed", yLabel: "share of genes", xRange: [0, 1], yRange: [0, Math.max(...c.pit) * 1.1], marks: [{ y: 1 / n, label: "calibrated" }], series: [{ x: c.pit.map((_, i) => (i + 0.5) / n), y: c.pit, columns: 1 / n, colour: "var(--s1)" }] });
      PF.lines(at("risk"), { title: "Risk and coverage", xLabel: "share of conditions kept", yLabel: "mean RMSE", xRange: [0, 1], series: [["model", "var(--s1)"], ["random", "var(--s6)"], ["oracle", "var(--s3)"]].filter(([k]) => c.risk[k]).map(([k, colour]) => ({ name: k, x: c.kept, y: c.risk[k], colour })) });
      PF.bars(at("groups"), { title: `Coverage of the ${Math.round(100 * c.level)} % interval by group, mean over perturbations with its 95 % interval`, marks: [{ value: c.level, label: "nominal" }], xLabel: "coverage", rows: c.groups.map(([label, name, value, low, high]) => ({ label, name, value, low, high, colour: name === "Gaussian" ? "var(--s6)" : "var(--s1)" })) });
      for (const f of data.fans) {
        const box = PF.el("div"), x = f.genes.map((_, i) => i + 1);
        at("fans").append(box);
        PF.lines(box, { title: f.title, xLabel: "largest predicted changes, in order", yLabel: "change (log1p)", bands: f.bands.map((b) => ({ x, ...b })), series: [{ name: "predicted", x, y: f.predicted, colour: "var(--s1)", text: (i) => `${f.genes[i]}\npredicted ${signed(f.predicted[i])}` }, { name: "observed", x, y: f.observed, colour: "var(--ink)", dots: 2.6, text: (i) => `${f.genes[i]}\nobserved ${signed(f.observed[i])}` }] });
      }
    },
  };
  for (const name of ["perturbations", "contexts", "strata"]) drawn[name] = () => { const t = data.tables[name]; if (t && at(name + "-table")) PF.table(at(name + "-table"), { name, columns: t.columns, rows: t.rows, most: 100 }); };
  PF.panelWords = {
    condition: () => [...detail.titles, ...detail.genes].join(" "),
    heat: () => [...data.heatmap.rows, ...data.heatmap.columns].join(" "),
    conditions: () => detail.titles.join(" ") + data.tables.conditions.columns.map((c) => c.name).join(" "),
    perturbations: () => data.tables.perturbations ? data.tables.perturbations.rows.map((r) => r[0]).join(" ") : "",
    sets: () => (data.sets || []).map((r) => r[0]).join(" "),
  };
  const done = new Set();
  const ensure = (id) => { if (!done.has(id)) { done.add(id); drawn[id](); } };
  for (const id of Object.keys(drawn)) {
    const panel = at(id);
    if (!panel) continue;
    panel.addEventListener("toggle", () => { if (panel.open) ensure(id); });
  }
  PF.beforeRedraw = () => { for (const id of Object.keys(drawn)) if (at(id) && at(id).open) ensure(id); };
  PF.ruler(at("ruler"), { points: data.ruler, better: data.direction === "min" ? "lower" : "higher", name: `${data.headline} beside floors and ceilings` });
})();
