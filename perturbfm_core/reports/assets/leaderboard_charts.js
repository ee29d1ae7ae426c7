/* Charts of the leaderboard page, on top of charts.js.

   LB.interval(o)             one row of the table: value, interval and marks on the common axis {low, high}
   LB.spark(values, range)    values by fold and seed
   LB.heat(host, o)           {rows, columns, values, why, better, row(i), column(j), name}: the stronger the better
   LB.cost(host, o)           {points: [{x, y, label, group}], xLabel, yLabel, down, open(i)}: x on a logarithmic axis
   LB.calibration(host, o)    small multiples {items: [{label, levels, before, after, why}]} */
"use strict";
(() => {
  const { el, svg, show, hide } = PF;
  const part = (v, axis) => Math.max(0, Math.min(1, (v - axis.low) / (axis.high - axis.low)));
  const at = (v, axis) => (2 + 96 * part(v, axis)).toFixed(2) + "%";
  /* What counts as 0 and as 1 on the scale of the metric's panel, null where there is none. */
  LB.scaleOf = (board, metric) => {
    const ends = [["baseline_mark", "m-floor", "baseline", "counts as 0"], ["anchor_mark", "m-free", "replicate anchor", "counts as 1"]].map(([field, kind, name, what]) => ({ field, kind, name: `${name} (${what})`, value: LB.bound(field, board, metric) }));
    return ends.some((e) => e.value === null) ? null : ends;
  };
  /* Marks of a board: those of the panel's own scale, else the better of the two floors that are known, the half ceiling, and the noise-free score. */
  LB.marksOf = (board, metric) => {
    const scale = LB.scaleOf(board, metric);
    if (scale) return scale;
    const floors = [["train_mean_floor", "floor: train mean"], ["control_mean_floor", "floor: no change"]].map(([field, name]) => ({ field, name, kind: "m-floor", value: LB.bound(field, board, metric) }));
    const known = floors.filter((f) => f.value !== null).sort((a, b) => LB.better(metric, a.value, b.value));
    const others = [["ceiling", "m-half", "half of the cells"], ["ceiling_noise_free", "m-free", "noise-free"]].map(([field, kind, name]) => ({ field, kind, name, value: LB.bound(field, board, metric) }));
    return [known[0] || { ...floors[0], name: "floor" }, ...others];
  };

  LB.axisOf = (values, ends, marks) => {
    const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
    if (!sorted.length && !marks.length) return null;
    const q = (p) => sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))];
    const all = [...sorted, ...ends.filter((v) => v !== null), ...marks];
    let low = Math.min(...all), high = Math.max(...all);
    // A few entries far off leave the others apart: they are drawn at the edge.
    if (sorted.length >= 4) {
      const spread = q(0.75) - q(0.25);
      if (spread > 0) { low = Math.max(low, q(0.25) - 6 * spread, Math.min(...marks, Infinity) < q(0.25) - 6 * spread ? Math.min(...marks) : -Infinity); high = Math.min(high, q(0.75) + 6 * spread > Math.max(...marks, -Infinity) ? q(0.75) + 6 * spread : Math.max(...marks)); }
    }
    if (low === high) { low -= 0.5; high += 0.5; }
    const pad = (high - low) * 0.03;
    return { low: low - pad, high: high + pad };
  };

  LB.interval = (o) => {
    const root = svg("svg", { class: "iv", role: "img", "aria-label": o.name });
    root.append(svg("line", { class: "axis", x1: "2%", x2: "98%", y1: 13, y2: 13 }));
    for (const m of o.marks) root.append(svg("line", { class: m.kind, x1: at(m.value, o.axis), x2: at(m.value, o.axis), y1: 0, y2: 26, "stroke-width": 1.6 }));
    if (o.low !== null && o.high !== null) root.append(svg("line", { class: "ci", x1: at(o.low, o.axis), x2: at(o.high, o.axis), y1: 13, y2: 13 }));
    if (o.value !== null) {
      if (o.value < o.axis.low || o.value > o.axis.high) root.append(svg("text", { x: o.value < o.axis.low ? "0%" : "100%", "text-anchor": o.value < o.axis.low ? "start" : "end", y: 17, text: o.value < o.axis.low ? "\u25c2" : "\u25b8" }));
      else root.append(svg("circle", { class: "dot", cx: at(o.value, o.axis), cy: 13, r: 4.6 }));
    }
    root.append(svg("title", { text: o.name }));
    return root;
  };
  LB.scaleHead = (axis) => {
    const root = svg("svg", { class: "iv", style: "height:14px", "aria-hidden": "true" });
    for (const t of PF.ticks([axis.low, axis.high], 3)) root.append(svg("text", { x: at(t, axis), y: 11, "text-anchor": "middle", text: PF.number(t, 3) }));
    return root;
  };

  LB.spark = (values, range, name) => {
    const root = svg("svg", { class: "spark", viewBox: "0 0 66 22", role: "img", "aria-label": name }, svg("title", { text: name }));
    const x = PF.scale([0, Math.max(values.length - 1, 1)], [4, 62]), y = PF.scale(range, [19, 3]);
    const points = values.map((v, i) => (v === null ? null : [values.length === 1 ? 33 : x(i), y(Math.max(range[0], Math.min(range[1], v)))]));
    let d = "", pen = false;
    for (const p of points) { if (!p) { pen = false; continue; } d += (pen ? "L" : "M") + p.map((v) => v.toFixed(1)).join(" "); pen = true; }
    root.append(svg("path", { d }));
    for (const p of points) if (p) root.append(svg("circle", { cx: p[0].toFixed(1), cy: p[1].toFixed(1), r: values.length > 12 ? 1.2 : 2 }));
    return root;
  };

  LB.heat = (host, o) => PF.chart(host, (width) => {
    const longest = Math.max(...o.rows.map((r) => r.length), 4), left = Math.min(longest * 6.4 + 12, width * 0.34), cell = o.text ? 24 : 19;
    const most = Math.max(Math.floor((left - 10) / 6.4), 3), short = (t, n) => (t.length > n ? t.slice(0, n - 1) + "\u2026" : t);
    const w = Math.max(9, Math.min(o.text ? 84 : 30, (width - left - 90) / o.columns.length)), labels = Math.min(Math.max(...o.columns.map((c) => c.length), 3), o.text ? 34 : 14);
    const head = 10 + labels * 5.6, full = Math.max(width, left + w * o.columns.length + (o.text ? 110 : 40)), height = head + cell * o.rows.length + 4;
    const root = svg("svg", { class: "chart", width: full, height, viewBox: `0 0 ${full} ${height}`, role: "group", "aria-label": `${o.name}: arrow keys step through the cells, Enter opens the column`, tabindex: 0 });
    const known = o.values.flat().filter((v) => v !== null).sort((a, b) => a - b), q = (p) => known[Math.floor(p * (known.length - 1))];
    const low = known.length ? q(0.02) : 0, high = known.length ? q(0.98) : 1;
    const good = (v) => { const share = high > low ? Math.max(0, Math.min(1, (v - low) / (high - low))) : 0.5; return o.better === "min" ? 1 - share : o.better === "target" ? 1 - Math.min(1, Math.abs(v - o.target) / Math.max(high - o.target, o.target - low, 1e-12)) : share; };
    const paths = new Map();
    let missing = "";
    o.values.forEach((row, i) => row.forEach((v, j) => {
      const x = left + j * w, y = head + i * cell;
      if (v === null) { missing += `M${(x + w / 2 - 3).toFixed(1)} ${y + cell / 2}h6`; return; }
      const key = Math.round(good(v) * 15);
      paths.set(key, (paths.get(key) || "") + `M${x.toFixed(1)} ${y}h${(w - 1).toFixed(1)}v${cell - 1}h${(1 - w).toFixed(1)}z`);
    }));
    root.append(svg("rect", { x: left, y: head, width: Math.max(w * o.columns.length - 1, 0), height: cell * o.rows.length - 1, fill: "var(--sunk)" }));
    for (const [key, d] of paths) root.append(svg("path", { d, fill: "var(--s1)", "fill-opacity": (0.05 + (0.95 * key) / 15).toFixed(3), class: "act" }));
    if (missing) root.append(svg("path", { d: missing, class: "missing" }));
    if (o.text && w >= 44) o.values.forEach((row, i) => row.forEach((v, j) => { if (v !== null) root.append(svg("text", { x: left + j * w + w / 2, y: head + i * cell + cell / 2 + 4, "text-anchor": "middle", class: good(v) > 0.55 ? "on act" : "act", text: o.text(i, j) })); }));
    const each = Math.ceil(12 / w);
    o.columns.forEach((c, j) => { if (j % each === 0) root.append(svg("text", { class: "tick act", transform: `translate(${(left + j * w + w / 2 + 3).toFixed(1)} ${head - 5}) rotate(-55)`, onclick: () => o.column(j), text: short(c, labels) }, svg("title", { text: c }))); });
    o.rows.forEach((r, i) => root.append(svg("text", { class: "act", x: left - 7, y: head + i * cell + cell / 2 + 4, "text-anchor": "end", onclick: () => o.row(i), text: short(r, most) }, svg("title", { text: r }))));
    const frame = svg("rect", { fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, width: w, height: cell, visibility: "hidden" });
    root.append(frame);
    let now = [0, 0];
    const put = (i, j, x, y) => {
      now = [i, j];
      frame.setAttribute("x", left + j * w - 0.5); frame.setAttribute("y", head + i * cell - 0.5); frame.setAttribute("visibility", "visible");
      const v = o.values[i][j];
      show(`${o.rows[i]}\n${o.columns[j]}\n${v === null ? `\u2013 ${o.why(i, j)}` : LB.num(v)}${o.note ? `\n${o.note(i, j)}` : ""}`, x, y);
    };
    const off = () => { frame.setAttribute("visibility", "hidden"); hide(); };
    const find = (event) => { const box = root.getBoundingClientRect(), j = Math.floor((event.clientX - box.left - left) / w), i = Math.floor((event.clientY - box.top - head) / cell); return i >= 0 && i < o.rows.length && j >= 0 && j < o.columns.length ? [i, j] : null; };
    root.addEventListener("pointermove", (event) => { const c = find(event); if (c) put(c[0], c[1], event.clientX, event.clientY); else off(); });
    root.addEventListener("pointerleave", off);
    root.addEventListener("blur", off);
    root.addEventListener("click", (event) => { const c = find(event); if (c) { off(); o.column(c[1]); } });
    root.addEventListener("keydown", (event) => {
      const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Enter") { event.preventDefault(); off(); o.column(now[1]); return; }
      if (!by) return;
      event.preventDefault();
      const i = Math.max(0, Math.min(o.rows.length - 1, now[0] + by[0])), j = Math.max(0, Math.min(o.columns.length - 1, now[1] + by[1])), box = root.getBoundingClientRect();
      put(i, j, box.left + left + j * w, box.top + head + i * cell);
    });
    const ramp = el("div", { class: "legend" }, el("span", { class: "ramp" }, o.ends ? o.ends[0] : o.better === "min" ? PF.number(high, 3) : o.better === "target" ? "far" : PF.number(low, 3), el("i"), o.ends ? o.ends[1] : o.better === "min" ? PF.number(low, 3) : o.better === "target" ? "near" : PF.number(high, 3)), el("span", {}, "the stronger the better; a dash is a missing value"));
    return [ramp, root];
  });

  LB.cost = (host, o) => PF.chart(host, (width) => {
    const height = 290, left = 46, right = width - 14, top = 10, bottom = height - 42;
    const xs = o.points.map((p) => Math.log10(p.x)), ys = o.points.map((p) => p.y);
    let a = Math.min(...xs), b = Math.max(...xs), c = Math.min(...ys), d = Math.max(...ys);
    if (b - a < 0.6) { const mid = (a + b) / 2; a = mid - 0.4; b = mid + 0.4; }
    const padX = (b - a) * 0.06, padY = (d - c || 1) * 0.08;
    const x = PF.scale([a - padX, b + padX], [left, right]), y = PF.scale(o.down ? [d + padY, c - padY] : [c - padY, d + padY], [bottom, top]);
    const root = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": o.name, tabindex: 0 });
    for (const t of PF.ticks([c - padY, d + padY], 5)) if (!o.down || (Number.isInteger(t) && t >= 1)) root.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(t), y2: y(t) }), svg("text", { class: "tick", x: left - 6, y: y(t) + 4, "text-anchor": "end", text: PF.number(t, 3) }));
    const steps = b - a > 2 ? [1] : b - a > 0.9 ? [1, 3] : [1, 2, 5];
    for (let e = Math.floor(a - padX); e <= b + padX; e++) for (const s of steps) { const v = Math.log10(s) + e; if (v >= a - padX && v <= b + padX) root.append(svg("text", { class: "tick", x: x(v), y: bottom + 16, "text-anchor": "middle", text: PF.number(Number((s * 10 ** e).toPrecision(3)), 3) })); }
    root.append(svg("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }), svg("text", { class: "axis", x: (left + right) / 2, y: height - 6, "text-anchor": "middle", text: o.xLabel }), svg("text", { class: "axis", transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", text: o.yLabel }));
    const taken = [];
    o.points.forEach((p, i) => {
      const px = x(xs[i]), py = y(p.y);
      root.append(svg("circle", { cx: px, cy: py, r: 5, fill: { baseline: "var(--s6)", learned: "var(--s4)", external: "var(--s2)" }[p.group] || "var(--s1)", stroke: "var(--paper)", "stroke-width": 1.3, class: "act", onclick: () => o.open(i) }));
      const wide = p.label.length * 5.9, end = px + 9 + wide > right, box = [end ? px - 9 - wide : px + 9, py - 7, end ? px - 9 : px + 9 + wide, py + 7];
      if (taken.every((t) => box[2] < t[0] || box[0] > t[2] || box[3] < t[1] || box[1] > t[3])) { taken.push(box); root.append(svg("text", { class: "tick", x: end ? px - 8 : px + 8, y: py + 4, "text-anchor": end ? "end" : "start", text: p.label })); }
    });
    PF.hover(root, o.points.map((p, i) => [x(xs[i]), y(p.y)]), (i) => `${o.points[i].label}\n${o.yLabel}: ${PF.number(o.points[i].y)}\n${o.xLabel}: ${PF.number(o.points[i].x)}`);
    const groups = [...new Set(o.points.map((p) => p.group))];
    return [el("div", { class: "legend" }, ...groups.map((g) => el("span", {}, el("i", { style: `background:${{ baseline: "var(--s6)", learned: "var(--s4)", external: "var(--s2)" }[g] || "var(--s1)"}` }), g))), root];
  });

  LB.calibration = (host, o) => {
    const size = 100, x = PF.scale([0, 1], [6, 94]), y = PF.scale([0, 1], [94, 6]);
    const curve = (root, levels, values, kind) => {
      const points = levels.map((l, i) => [l, values[i]]).filter((p) => p[1] !== null);
      root.append(svg("path", { class: kind, d: "M" + [[0, 0], ...points, [1, 1]].map((p) => `${x(p[1]).toFixed(1)} ${y(p[0]).toFixed(1)}`).join("L") }));
      for (const p of points) root.append(svg("circle", { class: kind + "-dot", cx: x(p[1]), cy: y(p[0]), r: 2.2 }));
    };
    const figure = (item) => {
      const name = (values, what) => `${what}: ` + item.levels.map((l, i) => `${Math.round(l * 100)} % interval holds ${values[i] === null ? "\u2013" : (100 * values[i]).toFixed(1) + " %"}`).join(", ");
      const some = (values) => values.some((v) => v !== null);
      if (!some(item.before) && !some(item.after)) return el("figure", {}, el("figcaption", { title: item.label }, item.label), el("p", { class: "quiet" }, `\u2013 ${item.why}`));
      const text = [item.label, some(item.after) ? name(item.after, "calibrated") : `calibrated: \u2013 ${item.whyAfter}`, some(item.before) ? name(item.before, "Gaussian") : ""].filter(Boolean).join("\n");
      const root = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": text, tabindex: 0 }, svg("rect", { class: "frame", x: 6, y: 6, width: 88, height: 88, rx: 3 }), svg("line", { class: "diag", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
      if (some(item.before)) curve(root, item.levels, item.before, "before");
      if (some(item.after)) curve(root, item.levels, item.after, "after");
      const tell = () => { const box = root.getBoundingClientRect(); show(text, box.left + 10, box.bottom - 12); };
      root.addEventListener("pointermove", (event) => show(text, event.clientX, event.clientY));
      root.addEventListener("pointerleave", hide); root.addEventListener("focus", tell); root.addEventListener("blur", hide);
      return el("figure", {}, el("figcaption", { title: item.label }, item.label), root);
    };
    const most = 12, grid = el("div", { class: "multiples" }, ...o.items.slice(0, most).map(figure));
    const more = o.items.length > most ? el("button", { type: "button", onclick: (event) => { grid.append(...o.items.slice(most).map(figure)); event.target.remove(); } }, `show all ${o.items.length}`) : null;
    host.replaceChildren(el("div", { class: "legend" }, el("span", {}, el("i", { class: "stroke", style: "background:var(--s1)" }), "calibrated intervals"), el("span", {}, el("i", { class: "stroke", style: "background:var(--s6)" }), "Gaussian, uncalibrated")), grid, ...(more ? [more] : []));
  };
})();
