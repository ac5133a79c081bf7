"use strict";
(() => {
  const MISSING = "–";
  const root = document.documentElement;

  // The theme follows the system until someone chooses; a browser that remembers nothing forgets the choice.
  const themes = ["auto", "light", "dark"];
  const toggle = document.querySelector(".theme");
  const remember = {
    get: () => { try { return localStorage.getItem("sweeper-theme"); } catch { return null; } },
    set: (theme) => { try { localStorage.setItem("sweeper-theme", theme); } catch { /* for this visit only */ } },
  };
  const show = (theme) => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    toggle.textContent = `Theme: ${theme}`;
  };
  let theme = themes.includes(remember.get()) ? remember.get() : "auto";
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remember.set(theme);
    show(theme);
  });
  show(theme);

  // Tables. A row is {cells: [[text, number, every digit] | text], node}; long tables make nodes of what is looked at.
  const text = (cell) => (Array.isArray(cell) ? cell[0] : cell);
  const key = (cell) => (Array.isArray(cell) ? cell[1] : cell === MISSING ? null : cell);

  const compare = (place, sign) => (one, other) => {
    const [a, b] = [key(one.cells[place]), key(other.cells[place])];
    if (a === null || b === null) return (a === null) - (b === null); // missing last, whichever the direction
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  };

  const readRows = (table) => {
    const data = document.getElementById(`${table.id}-data`);
    if (data) return JSON.parse(data.textContent).map((cells) => ({ cells, node: null }));
    return [...table.tBodies[0].rows].map((node) => ({
      node,
      cells: [...node.cells].map((cell) =>
        cell.dataset.value === undefined ? cell.textContent : [cell.textContent, Number(cell.dataset.value), ""]),
    }));
  };

  const makeNode = (cells, numeric) => {
    const node = document.createElement("tr");
    cells.forEach((cell, place) => {
      const made = document.createElement(place === 0 ? "th" : "td");
      if (place === 0) made.scope = "row";
      made.textContent = text(cell);
      made.classList.toggle("number", numeric[place]);
      made.classList.toggle("missing", key(cell) === null);
      if (Array.isArray(cell)) {
        made.dataset.value = cell[1];
        if (cell[2]) made.title = cell[2];
      } else if (cell.length > 24) made.title = cell;
      node.append(made);
    });
    return node;
  };

  const enliven = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const numeric = heads.map((head) => head.classList.contains("number"));
    const pageRows = Number(table.dataset.rows) || Infinity;
    const all = readRows(table);
    const of = (name) => [...document.querySelectorAll(`[data-${name}="${table.id}"]`)];
    const [filter] = of("filters");
    const [counter] = of("counts");
    const turns = of("turns");
    let order = all;
    let shown = all;
    let first = 0;

    const draw = () => {
      const page = shown.slice(first, first + pageRows);
      table.tBodies[0].replaceChildren(...page.map((row) => (row.node ??= makeNode(row.cells, numeric))));
      if (counter) {
        const count = (number) => number.toLocaleString("en");
        const whole = shown.length === all.length ? `${count(all.length)} rows` : `${count(shown.length)} of ${count(all.length)} rows`;
        const part = shown.length > pageRows ? `${count(first + 1)}–${count(first + page.length)} of ` : "";
        counter.textContent = part + whole;
      }
      for (const turn of turns) {
        const to = first + Number(turn.dataset.by) * pageRows;
        turn.disabled = to < 0 || to >= shown.length;
      }
    };

    const select = () => {
      const words = (filter?.value ?? "").toLowerCase().split(/\s+/).filter(Boolean);
      const matches = (row) => {
        row.text ??= row.cells.map(text).join(" ").toLowerCase();
        return words.every((word) => row.text.includes(word));
      };
      shown = words.length ? order.filter(matches) : order;
      first = 0;
      draw();
    };

    heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
      const ascending = head.ariaSort !== "ascending";
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = ascending ? "ascending" : "descending";
      order = [...order].sort(compare(place, ascending ? 1 : -1));
      select();
    }));
    filter?.addEventListener("input", select);
    for (const turn of turns) {
      turn.addEventListener("click", () => { first += Number(turn.dataset.by) * pageRows; draw(); });
    }
    (filter ?? counter)?.closest(".controls").removeAttribute("hidden");
    draw();
  };
  document.querySelectorAll("table.sortable").forEach(enliven);

  // Copy: the clipboard where the browser gives it, else the text is selected for the reader's own keys.
  for (const button of document.querySelectorAll(".copy")) {
    const source = document.getElementById(button.dataset.copies);
    button.hidden = false;
    button.addEventListener("click", async () => {
      let said = "Copied";
      try {
        await navigator.clipboard.writeText(source.textContent);
      } catch {
        getSelection().selectAllChildren(source);
        said = "Selected";
      }
      button.textContent = said;
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }

  // The contents show where the reader is.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const visible = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((name) => visible.has(name));
    for (const [name, link] of links) {
      if (name === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-8% 0px -55% 0px" });
  for (const section of document.querySelectorAll("section[id]")) watch.observe(section);
})();
