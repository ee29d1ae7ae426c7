/* Charts as inline SVG, drawn to the width of their host and again when it changes; nothing is fetched.

   Every function takes a host element and a description, and draws when the host is visible. Text is set as text, never
   as markup. Colours are CSS colours, best the variables of page.css ("var(--s1)"). Charts take the keyboard focus; arrow
   keys step through their points and show the text that hovering shows.

   PF.lines(host, {series, marks, bands, title, xLabel, yLabel, xRange, yRange, height, name})
       series  [{name, x, y, colour, dashed, dots, columns, text}]: x and y of equal length, y may hold null; text(i) on
               hover; dots: true or a radius (then without a line); columns: bars from zero of this width
       marks   [{x | y, label}]: dashed guides    bands  [{x, low, high, colour}]: filled between low and high
   PF.scatter(host, {points, groups, title, diagonal, square, guides, xLabel, yLabel, height, text, tags, name})
       points  {x, y, label, group}: arrays of equal length; group holds indices of groups (default: all 0)
       tags    [[index, text]]: names beside a few points, left out where they would cover each other
       groups  [{name, colour, ring}]    guides  [{x | y, label}]: dashed    diagonal  a line y = x    text(i) on hover
   PF.bars(host, {rows, marks, title, xLabel, xRange, bar, colours, labelWidth, name})
       rows    [{label, value, low, high, colour, note, at}]: a dot, or with bar: true a bar from zero, with its interval;
               rows of the same label share a line; value null leaves the line empty and shows note
       marks   [{value, label}]: vertical guides
   PF.ruler(host, {points, low, high, better, name})
       points  [{value, label, kind, low, high}]: marks on one axis; kind "own" (with its interval), "entry", "bound", "floor"
   PF.heatmap(host, {rows, columns, panels, limit, title, name})
       panels  [{title, values}]: values[row][column], null for none; all panels side by side with one scale
   PF.el(tag, attributes, ...children), PF.svg(tag, ...)   elements with text children
   PF.number(value, digits)   four significant digits, a dash for none
   PF.redraw()   draws every chart now, e.g. before printing; PF.beforeRedraw, if a page sets it, is called first */
"use strict";
const PF = (() => {
  const NS = "http://www.w3.org/2000/svg";
  const charts = new Map();
  const fill = (node, attributes, children) => {
    for (const [k, v] of Object.entries(attributes || {})) {
      if (v === null || v === undefined || v === false) continue;
      if (k === "text") node.textContent = v;
      else if (k.startsWith("on")) node.addEventListener(k.slice(2), v);
      else node.setAttribute(k, v === true ? "" : v);
    }
    node.append(...children.filter((c) => c !== null && c !== undefined));
    return node;
  };
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(NS, tag), attributes, children);
  const number = (v, digits = 4) => {
    if (v === null || v === undefined || Number.isNaN(v)) return "\u2013";
    if (v === 0 || !Number.isFinite(v)) return String(v);
    const size = Math.abs(v);
    if (Number.isInteger(v) && size < 1e6) return String(v).replace("-", "\u2212");
    const text = size >= 1e5 || size < 1e-4 ? v.toExponential(2) : Number(v.toPrecision(digits)).toString();
    return text.replace("-", "\u2212");
  };
  const finite = (values) => values.filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  const extent = (values) => {
    let low = Infinity, high = -Infinity;
    for (const v of values) if (v !== null && Number.isFinite(v)) { if (v < low) low = v; if (v > high) high = v; }
    return low > high ? [0, 1] : low === high ? [low - 0.5, high + 0.5] : [low, high];
  };
  const padded = ([low, high], share = 0.06) => { const by = (high - low) * share; return [low - by, high + by]; };
  const ticks = ([low, high], wanted) => {
    const raw = (high - low) / Math.max(wanted, 1), power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999) * power;
    const out = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
    return out;
  };
  const scale = ([a, b], [p, q]) => (v) => p + ((v - a) / (b - a)) * (q - p);
  const shorten = (text, most) => (text.length > most ? text.slice(0, Math.max(most - 1, 1)) + "\u2026" : text);

  // ---- hovering ----------------------------------------------------------------------------------------------------
  let tip = null;
  const show = (text, x, y) => {
    if (!tip) { tip = el("div", { class: "tip", role: "status", hidden: true }); document.body.append(tip); }
    tip.textContent = text; tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 6)) + "px";
    tip.style.top = (y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16) + "px";
  };
  const hide = () => { if (tip) tip.hidden = true; };
  /* Shows text(i) of the nearest of `spots` [[x, y], ...]; `order` is the order of the arrow keys. */
  const hover = (root, spots, text, order, reach = 16) => {
    const mark = svg("circle", { r: 5.5, fill: "none", stroke: "var(--ink)", "stroke-width": 1.6, visibility: "hidden" });
    root.append(mark);
    let at = -1;
    const point = (i, x, y) => { mark.setAttribute("cx", spots[i][0]); mark.setAttribute("cy", spots[i][1]); mark.setAttribute("visibility", "visible"); show(text(i), x, y); };
    const leave = () => { mark.setAttribute("visibility", "hidden"); hide(); };
    root.addEventListener("pointermove", (event) => {
      const box = root.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = -1, found = reach * reach;
      for (let i = 0; i < spots.length; i++) {
        const d = (spots[i][0] - x) ** 2 + (spots[i][1] - y) ** 2;
        if (d < found) { found = d; best = i; }
      }
      if (best < 0) leave(); else point(best, event.clientX, event.clientY);
    });
    root.addEventListener("pointerleave", leave);
    root.addEventListener("blur", leave);
    root.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by || !spots.length) return;
      event.preventDefault();
      at = (at + by + spots.length) % spots.length;
      const i = order ? order[at] : at, box = root.getBoundingClientRect();
      point(i, box.left + spots[i][0], box.top + spots[i][1]);
    });
  };

  // ---- frames ------------------------------------------------------------------------------------------------------
  const observer = new ResizeObserver((entries) => { for (const e of entries) draw(e.target); });
  const draw = (host) => {
    const chart = charts.get(host), width = Math.floor(host.clientWidth);
    if (!chart || width < 40 || chart.width === width) return;
    chart.width = width;
    host.replaceChildren(...chart.make(width).filter(Boolean));
  };
  const chart = (host, make) => {
    charts.set(host, { make, width: 0 });
    observer.observe(host);
    draw(host);
  };
  const redraw = () => { if (PF.beforeRedraw) PF.beforeRedraw(); for (const host of charts.keys()) draw(host); };
  const root = (width, height, name) => svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name || "chart", tabindex: 0 });
  const heading = (o) => (o.title ? el("p", { class: "chart-title", text: o.title }) : null);
  const legend = (items, stroke) => (items.length > 1 ? el("div", { class: "legend" }, ...items.map((g) => el("span", {}, el("i", { class: stroke ? "stroke" : null, style: `background:${g.colour}` }), g.name))) : null);
  const colour = (i) => `var(--s${(i % 6) + 1})`;
  /* Axes with grid; returns the scales. */
  const axes = (r, width, height, xs, ys, o) => {
    const left = o.left ?? 48, right = width - 10, top = 8, bottom = height - (o.xLabel ? 40 : 24);
    const x = scale(xs, [left, right]), y = scale(ys, [bottom, top]);
    for (const t of ticks(ys, Math.max(2, (bottom - top) / 45))) r.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(t), y2: y(t) }), svg("text", { class: "tick", x: left - 6, y: y(t) + 4, "text-anchor": "end", text: number(t) }));
    for (const t of ticks(xs, Math.max(2, (right - left) / 75))) r.append(svg("text", { class: "tick", x: x(t), y: bottom + 16, "text-anchor": "middle", text: number(t) }));
    r.append(svg("line", { class: "base", x1: left, x2: right, y1: bottom, y2: bottom }));
    if (o.xLabel) r.append(svg("text", { class: "axis", x: (left + right) / 2, y: height - 6, "text-anchor": "middle", text: o.xLabel }));
    if (o.yLabel) r.append(svg("text", { class: "axis", x: 0, y: 0, transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", text: o.yLabel }));
    return { x, y, left, right, top, bottom };
  };
  /* A guide beyond the axes is not drawn; its label has an arrow to the side where it lies. */
  const guide = (r, f, g) => {
    const flat = g.x === undefined, at = flat ? f.y(g.y) : f.x(g.x), [low, high] = flat ? [f.top, f.bottom] : [f.left, f.right];
    const before = at < low - 0.5, after = at > high + 0.5, place = before ? low : after ? high : at;
    if (!before && !after) r.append(svg("line", flat ? { class: "guide", x1: f.left, x2: f.right, y1: at, y2: at } : { class: "guide", x1: at, x2: at, y1: f.top, y2: f.bottom }));
    if (!g.label) return;
    const end = flat || place > (f.left + f.right) / 2, arrow = before ? (flat ? " \u2191" : " \u2190") : after ? (flat ? " \u2193" : " \u2192") : "";
    const y = flat ? (place - 4 < f.top + 8 ? place + 12 : place - 4) : f.top + 10;
    r.append(svg("text", { class: "tick halo", x: flat ? f.right - 4 : place + (end ? -5 : 5), y, "text-anchor": end ? "end" : "start", text: g.label + arrow }));
  };

  // ---- charts ------------------------------------------------------------------------------------------------------
  const lines = (host, o) => chart(host, (width) => {
    const height = o.height || 240, r = root(width, height, o.name || o.title);
    const bands = o.bands || [], marks = o.marks || [];
    const xs = o.xRange || extent(o.series.flatMap((s) => s.x).concat(marks.flatMap((m) => (m.x === undefined ? [] : [m.x]))));
    const ys = o.yRange || padded(extent(o.series.flatMap((s) => finite(s.y)).concat(bands.flatMap((b) => [...b.low, ...b.high]))));
    const f = axes(r, width, height, xs, ys, o);
    for (const b of bands) r.append(svg("path", { d: "M" + b.x.map((v, i) => `${f.x(v)} ${f.y(b.high[i])}`).join("L") + "L" + b.x.map((v, i) => `${f.x(v)} ${f.y(b.low[i])}`).reverse().join("L") + "Z", fill: b.colour || "var(--s1)", "fill-opacity": 0.16 }));
    for (const m of marks) guide(r, f, m);
    const spots = [], texts = [];
    o.series.forEach((s, at) => {
      const stroke = s.colour || colour(at);
      let d = "", pen = false;
      s.y.forEach((v, i) => {
        if (v === null || !Number.isFinite(v)) { pen = false; return; }
        const p = [f.x(s.x[i]), f.y(v)];
        d += (pen ? "L" : "M") + p.join(" "); pen = true;
        spots.push(p); texts.push(s.text ? s.text(i) : `${s.name || ""}${s.name ? "\n" : ""}${number(s.x[i])}: ${number(v)}`);
        if (s.columns) r.append(svg("rect", { x: f.x(s.x[i] - s.columns / 2) + 0.5, width: Math.max(f.x(s.columns) - f.x(0) - 1, 1), y: Math.min(f.y(v), f.y(0)), height: Math.abs(f.y(0) - f.y(v)), fill: stroke, "fill-opacity": 0.7 }));
        if (s.dots) r.append(svg("circle", { cx: p[0], cy: p[1], r: s.dots === true ? 3 : s.dots, fill: stroke }));
      });
      if ((!s.dots || s.dots === true) && !s.columns) r.append(svg("path", { d, fill: "none", stroke, "stroke-width": 1.8, "stroke-linejoin": "round", "stroke-dasharray": s.dashed ? "5 4" : null }));
    });
    hover(r, spots, (i) => texts[i], null, 24);
    return [heading(o), legend(o.series.filter((s) => s.name).map((s) => ({ name: s.name, colour: s.colour || colour(o.series.indexOf(s)) })), true) || (o.title ? el("div", { class: "legend" }) : null), r];
  });

  const scatter = (host, o) => chart(host, (width) => {
    const p = o.points, groups = o.groups || [{ name: "", colour: "var(--s1)" }];
    const height = o.height || Math.min(Math.max(width * 0.8, 240), 340), r = root(width, height, o.name || o.title);
    let xs = padded(extent(p.x)), ys = padded(extent(p.y));
    if (o.square) xs = ys = [Math.min(xs[0], ys[0]), Math.max(xs[1], ys[1])];
    if (o.yZero) ys = [0, ys[1]];
    const f = axes(r, width, height, xs, ys, o);
    const a = Math.max(xs[0], ys[0]), b = Math.min(xs[1], ys[1]);
    if (o.diagonal && a < b) r.append(svg("line", { class: "guide", x1: f.x(a), y1: f.y(a), x2: f.x(b), y2: f.y(b) }));
    for (const g of o.guides || []) guide(r, f, g);
    const paths = groups.map(() => "");
    const spots = p.x.map((v, i) => [f.x(v), f.y(p.y[i])]);
    // A dot is a stroke of no length with round ends: one path draws thousands.
    spots.forEach(([x, y], i) => { paths[p.group ? p.group[i] : 0] += `M${x.toFixed(1)} ${y.toFixed(1)}h0`; });
    groups.forEach((g, i) => { if (paths[i]) r.append(svg("path", { d: paths[i], fill: "none", stroke: g.colour || colour(i), "stroke-width": g.size || 5, "stroke-linecap": "round", "stroke-opacity": g.opacity || 0.6 })); });
    const taken = [];
    for (const [i, text] of o.tags || []) {
      const wide = text.length * 6.4 + 4, [px, py] = spots[i], end = px + wide > f.right, x0 = end ? px - 6 - wide : px + 6;
      if (taken.some(([a, b]) => Math.abs(b - py) < 12 && x0 < a + wide && a < x0 + wide)) continue;
      taken.push([x0, py]);
      r.append(svg("text", { class: "tick halo", x: end ? px - 6 : px + 6, y: py + 4, "text-anchor": end ? "end" : "start", text: shorten(text, 14) }));
    }
    const order = spots.map((_, i) => i).sort((a, b) => Math.abs(p.x[b]) + Math.abs(p.y[b]) - Math.abs(p.x[a]) - Math.abs(p.y[a]));
    hover(r, spots, o.text || ((i) => `${p.label ? p.label[i] + "\n" : ""}${number(p.x[i])}, ${number(p.y[i])}`), order);
    return [heading(o), legend(groups.map((g, i) => ({ name: g.name, colour: g.colour || colour(i) }))) || (o.title ? el("div", { class: "legend" }) : null), r];
  });

  const bars = (host, o) => chart(host, (width) => {
    const labels = [...new Set(o.rows.map((r) => r.label))], step = 24;
    const longest = Math.max(...labels.map((l) => l.length), 1);
    const left = Math.min(o.labelWidth || 12 + longest * 6.6, width * 0.45), most = Math.floor(left / 6.6);
    const height = labels.length * step + 44, r = root(width, height, o.name || o.title);
    const all = o.rows.flatMap((b) => finite([b.value, b.low, b.high])).concat((o.marks || []).map((m) => m.value), o.bar ? [0] : []);
    const xs = o.xRange || padded(extent(all)), x = scale(xs, [left + 6, width - 14]), bottom = labels.length * step + 4;
    for (const t of ticks(xs, Math.max(2, (width - left) / 80))) r.append(svg("line", { class: "grid", x1: x(t), x2: x(t), y1: 2, y2: bottom }), svg("text", { class: "tick", x: x(t), y: bottom + 15, "text-anchor": "middle", text: number(t) }));
    for (const m of o.marks || []) if (m.value >= xs[0] && m.value <= xs[1]) r.append(svg("line", { class: "guide", x1: x(m.value), x2: x(m.value), y1: 2, y2: bottom }));
    labels.forEach((l, i) => r.append(svg("text", { x: left, y: i * step + step / 2 + 6, "text-anchor": "end", text: shorten(l, most) }, svg("title", { text: l }))));
    const spots = [], texts = [];
    o.rows.forEach((b) => {
      const mates = o.rows.filter((other) => other.label === b.label), at = mates.indexOf(b);
      const y = labels.indexOf(b.label) * step + step / 2 + 2 + (at - (mates.length - 1) / 2) * 8, stroke = b.colour || colour(at);
      if (b.value === null || b.value === undefined) { r.append(svg("text", { class: "tick", x: left + 12, y: y + 4, text: b.note || "\u2013" })); return; }
      if (o.bar) r.append(svg("rect", { x: Math.min(x(0), x(b.value)), y: y - 6, width: Math.max(Math.abs(x(b.value) - x(0)), 1), height: 12, rx: 2, fill: stroke, "fill-opacity": 0.75 }));
      if (b.low !== null && b.low !== undefined) r.append(svg("line", { x1: x(b.low), x2: x(b.high), y1: y, y2: y, stroke: o.bar ? "var(--ink)" : stroke, "stroke-width": 1.8 }));
      if (!o.bar) r.append(svg("circle", { cx: x(b.value), cy: y, r: 4, fill: stroke }));
      spots.push([x(b.value), y]);
      texts.push(`${b.label}${b.name ? "\n" + b.name : ""}\n${number(b.value)}${b.low === null || b.low === undefined ? "" : ` (${number(b.low)} to ${number(b.high)})`}${b.note ? "\n" + b.note : ""}`);
    });
    if (o.xLabel) r.append(svg("text", { class: "axis", x: (left + width) / 2, y: height - 6, "text-anchor": "middle", text: o.xLabel }));
    hover(r, spots, (i) => texts[i], null, 20);
    const names = [...new Map(o.rows.filter((b) => b.name).map((b) => [b.name, b.colour])).entries()];
    return [heading(o), legend(names.map(([name, c]) => ({ name, colour: c }))), r];
  });

  const ruler = (host, o) => chart(host, (width) => {
    const points = o.points.filter((p) => p.value !== null && Number.isFinite(p.value));
    const xs = padded(extent(points.flatMap((p) => finite([p.value, p.low, p.high]))), 0.05), x = scale(xs, [8, width - 8]);
    const entries = points.filter((p) => p.kind === "own" || p.kind === "entry"), marks = points.filter((p) => !entries.includes(p));
    const size = (text) => text.length * 6.6, step = 26, axis = entries.length * step + 8;
    // Labels of close marks go to further lines below the axis.
    const lanes = [];
    const placed = [...marks].sort((a, b) => a.value - b.value).map((p) => {
      const text = `${p.label} ${number(p.value, 3)}`, wide = size(text) + 12;
      const from = Math.max(0, Math.min(x(p.value) - wide / 2, width - wide));
      let lane = lanes.findIndex((end) => end <= from);
      if (lane < 0) { lane = lanes.length; lanes.push(0); }
      lanes[lane] = from + wide;
      return { p, text, lane, middle: from + wide / 2 };
    });
    const height = axis + 16 + Math.max(lanes.length, 1) * 18, r = root(width, height, o.name);
    const tint = { own: "var(--accent)", entry: "var(--s2)", bound: "var(--good)", floor: "var(--s6)" };
    r.append(svg("line", { x1: 3, x2: width - 3, y1: axis, y2: axis, stroke: "var(--line)", "stroke-width": 6, "stroke-linecap": "round" }));
    for (const q of placed) {
      const at = x(q.p.value), y = axis + 22 + q.lane * 18;
      r.append(svg("line", { x1: at, x2: at, y1: 0, y2: axis, stroke: tint[q.p.kind], "stroke-width": 1, "stroke-dasharray": "2 4" }));
      r.append(svg("line", { x1: at, x2: at, y1: axis, y2: y - 11, stroke: tint[q.p.kind], "stroke-width": 1, "stroke-opacity": 0.6 }));
      r.append(svg("line", { x1: at, x2: at, y1: axis - 6, y2: axis + 6, stroke: tint[q.p.kind], "stroke-width": 2.5 }));
      r.append(svg("text", { x: q.middle, y, "text-anchor": "middle", text: q.text, class: "halo" }));
    }
    const spots = [];
    entries.forEach((p, i) => {
      const at = x(p.value), y = i * step + 12, own = p.kind === "own", text = `${p.label} ${number(p.value, 3)}`;
      const known = p.low !== null && p.low !== undefined, low = known ? x(p.low) : at, high = known ? x(p.high) : at;
      if (known) r.append(svg("line", { x1: low, x2: high, y1: y, y2: y, stroke: tint[p.kind], "stroke-width": own ? 9 : 4, "stroke-opacity": own ? 0.3 : 0.45, "stroke-linecap": "round" }));
      r.append(svg("circle", { cx: at, cy: y, r: own ? 7 : 5, fill: tint[p.kind], stroke: "var(--paper)", "stroke-width": 1.5 }));
      const right = Math.max(high, at) + 14, fits = right + size(text) < width;
      r.append(svg("text", { x: fits ? right : Math.min(low, at) - 14, y: y + 4, "text-anchor": fits ? "start" : "end", "font-weight": own ? 650 : 400, text, class: "halo" }));
      spots.push([at, y]);
    });
    const all = [...entries, ...placed.map((q) => q.p)];
    hover(r, [...spots, ...placed.map((q) => [x(q.p.value), axis])], (i) => `${all[i].label}: ${number(all[i].value)}${all[i].low === null || all[i].low === undefined ? "" : `\n95 % interval ${number(all[i].low)} to ${number(all[i].high)}`}${all[i].note ? "\n" + all[i].note : ""}`, null, 14);
    return [r];
  });

  const heatmap = (host, o) => chart(host, (width) => {
    const n = o.panels.length, cell = 13, longest = Math.max(...o.rows.map((t) => t.length), 1);
    const left = Math.min(longest * 6.2 + 12, Math.max(width * 0.24, 120)), most = Math.floor(left / 6.2), gap = 18;
    // On a narrow page the panels stand below each other.
    const beside = (width - left - gap * (n - 1)) / n >= o.columns.length * 7, wide = Math.min(beside ? (width - left - gap * (n - 1)) / n : width - left - 4, o.columns.length * 22);
    const w = wide / o.columns.length, head = w >= 8 ? 78 : 20, block = head + o.rows.length * cell + 10, height = beside ? block : block * n, r = root(width, height, o.name || o.title);
    const limit = o.limit || Math.max(...o.panels.flatMap((p) => p.values.flatMap((v) => v.map((x) => Math.abs(x || 0)))), 1e-9);
    const place = (k) => [beside ? left + k * (wide + gap) : left, (beside ? 0 : k * block) + head];
    o.panels.forEach((p, k) => {
      const [x0, y0] = place(k);
      r.append(svg("text", { x: x0, y: y0 - head + 12, "font-weight": 600, text: p.title }));
      if (w >= 8) o.columns.forEach((c, j) => r.append(svg("text", { class: "tick", transform: `translate(${x0 + j * w + w / 2 + 4} ${y0 - 5}) rotate(-60)`, text: shorten(c, 9) })));
      if (k === 0 || !beside) o.rows.forEach((t, i) => r.append(svg("text", { class: "tick", x: left - 6, y: y0 + i * cell + cell - 3, "text-anchor": "end", text: shorten(t, most) })));
      // One path per colour and step of opacity, so that thousands of cells are few elements.
      const paths = new Map();
      p.values.forEach((row, i) => row.forEach((v, j) => {
        if (v === null) return;
        const key = (v < 0 ? "-" : "+") + Math.round(Math.min(Math.sqrt(Math.abs(v) / limit), 1) * 16);
        paths.set(key, (paths.get(key) || "") + `M${(x0 + j * w).toFixed(1)} ${y0 + i * cell}h${Math.max(w - 1, 1).toFixed(1)}v${cell - 1}h${(-Math.max(w - 1, 1)).toFixed(1)}z`);
      }));
      r.append(svg("rect", { x: x0, y: y0, width: wide - 1, height: o.rows.length * cell - 1, fill: "var(--sunk)" }));
      for (const [key, d] of paths) r.append(svg("path", { d, fill: key[0] === "-" ? "var(--down)" : "var(--up)", "fill-opacity": Number(key.slice(1)) / 16 }));
    });
    const frame = svg("rect", { fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, width: w, height: cell, visibility: "hidden" });
    r.append(frame);
    const cellText = (i, j) => `${o.rows[i]}\n${o.columns[j]}\n` + o.panels.map((p) => `${p.title}: ${number(p.values[i][j])}`).join("\n");
    let focus = [0, -1];
    const on = (k, i, j, x, y) => { const [x0, y0] = place(k); frame.setAttribute("x", x0 + j * w); frame.setAttribute("y", y0 + i * cell); frame.setAttribute("visibility", "visible"); show(cellText(i, j), x, y); };
    const off = () => { frame.setAttribute("visibility", "hidden"); hide(); };
    r.addEventListener("pointermove", (event) => {
      const box = r.getBoundingClientRect();
      for (let k = 0; k < n; k++) {
        const [x0, y0] = place(k), j = Math.floor((event.clientX - box.left - x0) / w), i = Math.floor((event.clientY - box.top - y0) / cell);
        if (i >= 0 && i < o.rows.length && j >= 0 && j < o.columns.length) { on(k, i, j, event.clientX, event.clientY); return; }
      }
      off();
    });
    r.addEventListener("pointerleave", off);
    r.addEventListener("blur", off);
    r.addEventListener("keydown", (event) => {
      const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!by) return;
      event.preventDefault();
      focus = [Math.max(0, Math.min(o.rows.length - 1, focus[0] + by[0])), Math.max(0, Math.min(o.columns.length - 1, focus[1] + by[1]))];
      const box = r.getBoundingClientRect(), [x0, y0] = place(0);
      on(0, focus[0], focus[1], box.left + x0 + focus[1] * w, box.top + y0 + focus[0] * cell);
    });
    return [heading(o), el("div", { class: "legend" }, el("span", {}, el("i", { style: "background:var(--up)" }), `increase up to ${number(limit, 3)}`), el("span", {}, el("i", { style: "background:var(--down)" }), "decrease")), r];
  });

  return { el, svg, number, lines, scatter, bars, ruler, heatmap, redraw, show, hide, hover, chart, ticks, scale };
})();
