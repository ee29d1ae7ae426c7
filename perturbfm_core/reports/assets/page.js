/* What every page does: theme, search in panels, tables that sort and save themselves as CSV, printing.

   <button data-theme-toggle>                     switches light and dark; the choice is kept where the browser allows it
   <input data-panel-search>                      hides panels (details.panel) without the words, and section.group without
                                                  panels; PF.panelWords = {id: () => text} adds words of a panel
   <button data-panels="open|close">              opens or closes all panels that are shown
   <table data-csv="name"> (in .scroll)           gets sortable heads and a button that saves it
   PF.table(host, {columns, rows, name, most})    a table from data: columns [{name, text, wrap, exact, action(row)}], rows of numbers, strings,
                                                  null; the first `most` rows (200) are shown, sorting and CSV take all
   PF.save(name, columns, rows)                   saves rows as a CSV file */
"use strict";
(() => {
  const el = PF.el;
  // ---- theme -------------------------------------------------------------------------------------------------------
  const page = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const kept = () => { try { return localStorage.getItem("perturbfm-theme"); } catch { return null; } };
  if (kept() === "dark" || kept() === "light") page.dataset.theme = kept();
  const current = () => page.dataset.theme || (dark.matches ? "dark" : "light");
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    const label = () => { button.textContent = current() === "dark" ? "Light" : "Dark"; button.setAttribute("aria-label", `switch to ${button.textContent.toLowerCase()} colours`); };
    button.addEventListener("click", () => { page.dataset.theme = current() === "dark" ? "light" : "dark"; try { localStorage.setItem("perturbfm-theme", page.dataset.theme); } catch { /* not kept */ } label(); });
    dark.addEventListener("change", label);
    label();
  }

  // ---- panels ------------------------------------------------------------------------------------------------------
  const panels = [...document.querySelectorAll("details.panel")];
  const words = new Map();
  const wordsOf = (panel) => { if (!words.has(panel)) words.set(panel, [panel.textContent, panel.dataset.words || "", PF.panelWords && PF.panelWords[panel.id] ? PF.panelWords[panel.id]() : ""].join(" ").toLowerCase()); return words.get(panel); };
  const status = document.querySelector("[data-panel-status]");
  for (const input of document.querySelectorAll("[data-panel-search]")) {
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      for (const panel of panels) {
        const hit = wanted.every((w) => wordsOf(panel).includes(w));
        panel.hidden = !hit;
        n += hit ? 1 : 0;
      }
      for (const group of document.querySelectorAll("section.group")) group.hidden = [...group.querySelectorAll("details.panel")].every((p) => p.hidden);
      if (status) status.textContent = wanted.length ? `${n} of ${panels.length} sections` : "";
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { input.value = ""; input.dispatchEvent(new Event("input")); }
      if (event.key === "Enter") { event.preventDefault(); const first = panels.find((p) => !p.hidden); if (first) { first.open = true; first.querySelector("summary").focus(); } }
    });
  }
  document.addEventListener("keydown", (event) => {
    const box = document.querySelector("[data-panel-search]");
    if (event.key === "/" && box && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); box.focus(); }
  });
  for (const button of document.querySelectorAll("[data-panels]")) button.addEventListener("click", () => { for (const p of panels) if (!p.hidden) p.open = button.dataset.panels === "open"; });
  const print = (on) => {
    for (const p of panels) {
      if (on) { p.dataset.was = p.open ? "open" : ""; p.open = true; } else if (p.dataset.was !== undefined) { p.open = p.dataset.was === "open"; delete p.dataset.was; }
    }
    PF.redraw();
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches));

  // ---- tables ------------------------------------------------------------------------------------------------------
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet would take such text for a formula.
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = "'" + text;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  PF.csv = (columns, rows) => [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  PF.save = (name, columns, rows) => {
    const address = URL.createObjectURL(new Blob(["\ufeff", PF.csv(columns, rows)], { type: "text/csv" }));
    const link = el("a", { href: address, download: name + ".csv" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  const before = (a, b) => {
    const none = (v) => v === null || v === undefined || v === "" || v === "\u2013";
    if (none(a) || none(b)) return none(a) - none(b);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  };
  const sorted = (rows, at, down) => {
    const order = rows.map((r, i) => i).sort((i, j) => {
      const c = before(rows[i][at], rows[j][at]), empty = [rows[i][at], rows[j][at]].some((v) => v === null || v === undefined || v === "\u2013");
      return (down && !empty ? -c : c) || i - j;
    });
    return order.map((i) => rows[i]);
  };
  PF.table = (host, o) => {
    const most = o.most || 200;
    let rows = o.rows, shown = most;
    // Decimals that line up, unless a column needs significant digits (`exact`) or holds whole numbers.
    const format = o.columns.map((c, j) => {
      const values = rows.map((r) => r[j]).filter((v) => typeof v === "number");
      if (c.exact || values.every(Number.isInteger) || values.some((v) => Math.abs(v) >= 1e4)) return (v) => PF.number(v, 3);
      const digits = values.some((v) => Math.abs(v) >= 0.05) ? 3 : 4;
      return (v) => v.toFixed(digits).replace(/^-(?=0\.0*$)/, "").replace("-", "\u2212");
    });
    const body = el("tbody"), more = el("button", { type: "button" }), said = el("span");
    const heads = o.columns.map((c, at) => el("th", { class: c.text ? "text" : null, scope: "col" }, el("button", { type: "button", onclick: () => sort(at) }, c.name)));
    const fillBody = () => {
      body.replaceChildren(...rows.slice(0, shown).map((row) => el("tr", {}, ...row.map((v, j) => el("td", { class: o.columns[j].text ? "text" + (o.columns[j].wrap ? " wrap" : "") : null }, o.columns[j].action && v !== null ? el("button", { type: "button", class: "link", onclick: () => o.columns[j].action(row) }, String(v)) : typeof v === "number" ? format[j](v) : v === null ? "\u2013" : String(v))))));
      more.hidden = rows.length <= shown;
      more.textContent = `show all ${rows.length}`;
      said.textContent = `${Math.min(shown, rows.length)} of ${rows.length} rows`;
    };
    const sort = (at) => {
      const down = heads[at].getAttribute("aria-sort") !== "descending" && !o.columns[at].text ? true : heads[at].getAttribute("aria-sort") === "ascending";
      for (const h of heads) h.removeAttribute("aria-sort");
      heads[at].setAttribute("aria-sort", down ? "descending" : "ascending");
      rows = sorted(o.rows, at, down);
      fillBody();
    };
    more.addEventListener("click", () => { shown = rows.length; fillBody(); });
    host.replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": o.name }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)), el("div", { class: "under" }, said, more, el("button", { type: "button", onclick: () => PF.save(o.name, o.columns.map((c) => c.name), rows) }, "CSV")));
    fillBody();
  };
  for (const table of document.querySelectorAll("table[data-csv]")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const text = (c) => c.textContent.trim();
    heads.forEach((h, at) => {
      const name = text(h);
      h.replaceChildren(el("button", { type: "button", onclick: () => {
        const down = h.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        h.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (r) => { const t = text(r.cells[at]), n = Number(t.replace("\u2212", "-")); return t === "" || Number.isNaN(n) ? t : n; };
        body.append(...sorted([...body.rows].map((r) => [value(r), r]), 0, down).map((pair) => pair[1]));
      } }, name));
    });
    const save = el("button", { type: "button", onclick: () => PF.save(table.dataset.csv, heads.map(text), [...body.rows].map((r) => [...r.cells].map((c) => { const t = text(c), n = Number(t.replace("\u2212", "-")); return t === "\u2013" ? null : t === "" || Number.isNaN(n) ? t : n; }))) }, "CSV");
    (table.closest(".scroll") || table).after(el("div", { class: "under" }, el("span", {}, `${body.rows.length} rows`), save));
  }
})();
