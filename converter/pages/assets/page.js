"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROWS = 60; // rows that are drawn before more are asked for
  const WIDE = 610; // pixels of a plot of which two stand side by side on a page of 1280
  const MORE = 500; // rows that are drawn each time that more are asked for
  const SVG = "http://www.w3.org/2000/svg";
  const POINTS = ["0.1 %", "1 %", "5 %", "25 %", "50 %", "75 %", "95 %", "99 %", "99.9 %"];

  // ---- making elements: every text is put in as text -----------------------------------------------------------------

  function make(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (typeof value === "function") made.addEventListener(name, value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== false && value != null) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child != null));
    return made;
  }

  // Numbers in a name order as numbers: each gets as many digits as the longest that is likely. Such keys are made once,
  // because a comparison that looks for numbers itself takes many times as long.
  const orderKey = (value) => (typeof value === "string" ? value.replace(/\d+/g, (digits) => digits.padStart(16, "0")) : value);

  const isolated = (text) => make("bdi", null, text);
  // A name may be empty, and then a button or a row would have nothing to be seen or read aloud.
  // A long one breaks after a dot or a slash, if it can, and not within a word.
  const nameOf = (text) =>
    text === "" ? make("i", { class: "quiet" }, "no name") : make("bdi", null, ...text.split(/(?<=[./])(?=[^./])/).flatMap((part, at) => (at ? [make("wbr"), part] : [part])));

  function sizeText(nbytes) {
    if (nbytes < 1000) return `${nbytes} B`;
    const units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let size = nbytes / 1000;
    while (size >= 999.95 && units.length > 1) {
      size /= 1000;
      units.shift();
    }
    return `${size.toFixed(1)} ${units[0]}`;
  }

  function numberText(value) {
    if (value == null) return "";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value);
    return size < 1e-3 || size >= 1e6 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  }

  // The numbers beside an axis lie close together, so they need more digits.
  const tickText = (value) => (value == null ? "" : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6) ? value.toExponential() : String(Number(value.toPrecision(6))));

  const countText = (count) => (count ? count.toLocaleString("en") : "");

  function bandText(values) {
    const known = values.filter((value) => value != null);
    if (!known.length) return "";
    const ends = [Math.min(...known), Math.max(...known)];
    const [low, high] = ends.map(numberText);
    if (low === high) return low;
    // Two numbers in one cell make it wide, so they have two digits where these tell them apart.
    const [short, long] = ends.map((value) => (Math.abs(value) < 1 ? numberText(Number(value.toPrecision(2))) : numberText(value)));
    return short === long ? `${low} … ${high}` : `${short} … ${long}`;
  }

  function copyButton(text) {
    const button = make("button", { type: "button", class: "copy", "aria-label": text === "" ? "Copy the empty name" : `Copy the name ${text.slice(0, 200)}` }, "copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
      } catch {
        const area = make("textarea", { "aria-hidden": "true" });
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
        button.focus();
      }
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    return button;
  }

  // ---- plots ---------------------------------------------------------------------------------------------------------

  const plots = new Set(); // each is drawn again when the theme or the width changes

  const colour = (name) => {
    const probe = make("span", { hidden: true });
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  // `series` are {label, values, colour, dash, bars}; `bands` are pairs of numbers of series, from 1.
  function plot(host, { title, x, series, bands = [], xLabel, yLabel, width = 400, integers = false, range = null }) {
    const figure = make("figure", { "aria-label": title }, make("figcaption", null, title));
    const place = make("div", { "aria-hidden": "true" });
    figure.append(place, tableOf(title, xLabel, x, series));
    host.append(figure);
    let drawn = null;
    const draw = () => {
      drawn?.destroy();
      const axis = { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } };
      const room = Math.max(240, Math.min(width, host.clientWidth || width));
      const made = series.map((one) => ({
        label: one.label,
        stroke: colour(one.colour),
        fill: one.bars ? colour("band") : undefined,
        width: one.width ?? 2,
        dash: one.dash,
        paths: one.bars ? uPlot.paths.bars({ size: [1], align: 1, gap: 1 }) : one.dots ? () => null : undefined,
        points: { show: Boolean(one.dots) || (!one.bars && x.length < 2), size: one.dots ? 4 : undefined },
        value: (_, value) => numberText(value),
      }));
      drawn = new uPlot(
        {
          width: room,
          height: 220,
          cursor: { drag: { x: false, y: false } },
          scales: { x: { time: false }, y: range ? { range } : {} },
          axes: [
            { ...axis, label: xLabel, labelSize: 18, size: 34, incrs: integers ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] : undefined },
            { ...axis, label: yLabel, labelSize: 18, size: 62, values: (_, ticks) => ticks.map((tick) => tickText(tick == null ? null : Number(tick.toPrecision(6)))) },
          ],
          series: [{ label: xLabel, value: (_, value) => numberText(value) }, ...made],
          bands: bands.map((pair) => ({ series: pair, fill: colour("band") })),
        },
        [x, ...series.map((one) => one.values)],
        place,
      );
    };
    draw();
    plots.add(draw);
    return () => {
      plots.delete(draw);
      drawn?.destroy();
      figure.remove();
    };
  }

  function tableOf(title, xLabel, x, series) {
    const head = make("tr", null, make("th", { scope: "col" }, xLabel), ...series.map((one) => make("th", { scope: "col" }, one.label)));
    const rows = () =>
      x.map((value, at) => make("tr", null, make("th", { scope: "row" }, numberText(value)), ...series.map((one) => make("td", { class: "num" }, numberText(one.values[at])))));
    const body = make("tbody");
    const found = make("details", null, make("summary", null, "as a table"), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, make("table", null, make("thead", null, head), body)));
    found.addEventListener("toggle", () => {
      if (found.open && !body.children.length) body.append(...rows());
    });
    return found;
  }

  const redraw = () => plots.forEach((draw) => draw());

  // ---- theme and print -----------------------------------------------------------------------------------------------

  const THEMES = ["automatic", "light", "dark"];
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "automatic") + 1) % THEMES.length];
    if (next === "automatic") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    theme.textContent = `Theme: ${next}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    tables.forEach((table) => table.draw(Infinity));
    redraw();
  });
  addEventListener("afterprint", () => {
    if (before) document.documentElement.dataset.theme = before;
    else delete document.documentElement.dataset.theme;
    tables.forEach((table) => table.draw());
    redraw();
  });
  let resized;
  addEventListener("resize", () => {
    clearTimeout(resized);
    resized = setTimeout(() => {
      redraw();
      maps.forEach((draw) => draw());
    }, 150);
  });

  // ---- a table with search, order and folded rows --------------------------------------------------------------------

  const tables = [];

  const moreText = (left) => `${left.toLocaleString("en")} more rows: show ${Math.min(left, MORE).toLocaleString("en")} of them`;

  // The button that was pressed moves down or goes away, so the focus goes to the first new row.
  function focusOn(line) {
    line.tabIndex = -1;
    line.focus();
  }

  // Numbers stand at the right, except those with a word before them, which would begin at another place in each row.
  const aligned = (column) => (column.number && !column.worded ? "num" : null);

  // A column is {head, value(row), cell(row), number, worded, wide}: `value` orders, `cell` shows. A row is {label, names, members,
  // detail}: `names` are searched, `members` are the rows that it folds, and `detail` makes what opens below it.
  function table(host, { label, what, columns: all, rows }) {
    const columns = all.filter((column) => !column.wide || rows.some((row) => column.value(row))); // an empty one takes room
    const state = { query: "", sort: null, down: false, unfold: false, most: ROWS };
    const search = make("input", { type: "search", id: `${host.id}-search`, autocomplete: "off", spellcheck: "false" });
    const fold = make("input", { type: "checkbox" });
    const status = make("span", { role: "status", class: "quiet" });
    const foldable = rows.some((row) => row.members?.length > 1);
    const foldLabel = foldable ? make("label", null, fold, "a row for each tensor") : null;
    const heads = columns.map((column, at) => {
      const button = make("button", { type: "button", click: () => order(at) }, column.head);
      return make("th", { scope: "col", class: aligned(column), "aria-sort": "none" }, button);
    });
    const body = make("tbody");
    const more = make("button", { type: "button", hidden: true, click: show });
    let found = []; // the rows that fit the search, in order
    // Draws the next rows below those that are there.
    function show() {
      const [first, ...others] = found.slice(state.most, state.most + MORE).map((row) => rowOf(row, false));
      body.append(first, ...others);
      state.most += MORE;
      sayMore(state.most);
      focusOn(first);
    }
    function sayMore(most) {
      const left = found.length - Math.min(most, found.length);
      more.hidden = left === 0;
      more.textContent = moreText(left);
    }
    host.append(
      make("div", { class: "controls" }, make("label", null, "Search", search), foldLabel, status),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, make("table", null, make("thead", null, make("tr", null, ...heads)), body)),
      make("p", null, more),
    );
    search.addEventListener("input", () => {
      state.query = search.value;
      state.most = ROWS;
      draw();
    });
    fold.addEventListener("change", () => {
      state.unfold = fold.checked;
      state.most = ROWS;
      draw();
    });

    function order(at) {
      if (state.sort === at && state.down !== Boolean(columns[at].number)) [state.sort, state.down] = [null, false];
      else if (state.sort === at) state.down = !state.down;
      else [state.sort, state.down] = [at, Boolean(columns[at].number)];
      heads.forEach((head, index) => head.setAttribute("aria-sort", index !== state.sort ? "none" : state.down ? "descending" : "ascending"));
      state.most = ROWS;
      draw();
    }

    function fits(query) {
      const words = query.trim().toLowerCase();
      if (/[*?]/.test(words)) {
        const pattern = new RegExp(`^${words.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*+/g, ".*").replace(/\?/g, ".")}$`, "s");
        return (name) => pattern.test(name);
      }
      return (name) => name.includes(words);
    }

    const keys = columns.map(() => new Map()); // for each column, the key of each row that was ordered by it
    function keyOf(row) {
      const made = keys[state.sort];
      if (!made.has(row)) made.set(row, orderKey(columns[state.sort].value(row)));
      return made.get(row);
    }

    function chosen() {
      const found = [];
      const test = fits(state.query);
      for (const row of rows) {
        const members = row.members ?? [row];
        const hits = state.query.trim() ? members.filter((one) => one.names.some(test)) : members;
        if (hits.length === members.length && !state.unfold) found.push(row);
        else found.push(...hits);
      }
      if (state.sort == null) return found;
      const keyed = found.map((row, at) => [keyOf(row), at, row]);
      const sign = state.down ? -1 : 1;
      // what has no value comes last in either order
      keyed.sort(([one, at], [other, otherAt]) => {
        if (one == null || other == null) return (one == null) - (other == null) || at - otherAt;
        const way = typeof one === "string" ? one.localeCompare(other, "en") : one - other;
        return way * sign || at - otherAt;
      });
      return keyed.map(([, , row]) => row);
    }

    // The first `most` of the rows that a row folds, and a button for the next ones. `below` lists all that stands below it.
    function innerRows(members, most, below) {
      const lines = members.slice(0, most).map((one) => rowOf(one, true));
      const left = members.slice(most);
      if (left.length) {
        const button = make("button", { type: "button" }, moreText(left.length));
        const next = make("tr", { class: "inner" }, make("td", { colspan: columns.length }, button));
        button.addEventListener("click", () => {
          below.splice(below.indexOf(next), 1);
          const others = innerRows(left, MORE, below);
          next.replaceWith(...others);
          focusOn(others[0]);
        });
        lines.push(next);
      }
      below.push(...lines);
      return lines;
    }

    function rowOf(row, inner) {
      const opens = row.members?.length > 1 || row.detail;
      const button = opens ? make("button", { type: "button", class: "open", "aria-expanded": "false" }, nameOf(row.label)) : nameOf(row.label);
      const single = !(row.members?.length > 1);
      const cells = columns.slice(1).map((column) => make("td", { class: aligned(column) ?? (column.wide ? "name" : "fixed") }, column.cell(row) ?? ""));
      const line = make("tr", { class: inner ? "inner" : null }, make("th", { scope: "row", class: "name" }, button, single && row.copy != null ? copyButton(row.copy) : null), ...cells);
      if (opens) {
        let below = [];
        button.addEventListener("click", () => {
          if (below.length) {
            below.forEach((one) => one.close?.());
            below.forEach((one) => one.remove());
            below = [];
          } else if (row.members?.length > 1) {
            line.after(...innerRows(row.members, ROWS, below));
          } else {
            const place = make("td", { colspan: columns.length });
            const below1 = make("tr", { class: "detail" }, place);
            line.after(below1);
            below1.close = row.detail(place);
            below = [below1];
          }
          button.setAttribute("aria-expanded", String(below.length > 0));
        });
        line.close = () => {
          below.forEach((one) => one.close?.());
          below.forEach((one) => one.remove());
        };
      }
      return line;
    }

    const every = rows.reduce((sum, row) => sum + (row.members?.length ?? 1), 0);
    function draw(most = state.most) {
      found = chosen();
      const count = found.reduce((sum, row) => sum + (row.members?.length ?? 1), 0);
      [...body.children].forEach((line) => line.close?.());
      body.replaceChildren(...found.slice(0, most).map((row) => rowOf(row, false)));
      status.textContent = count === every ? `${every.toLocaleString("en")} ${what}` : `${count.toLocaleString("en")} of ${every.toLocaleString("en")} ${what}`;
      sayMore(most);
    }
    draw();
    const made = { draw, search };
    tables.push(made);
    return made;
  }

  // ---- the map of bytes ----------------------------------------------------------------------------------------------

  const maps = [];

  function treemap(host, tensors) {
    const root = { name: "all", children: new Map(), nbytes: 0 };
    for (const tensor of tensors) {
      let node = root;
      const parts = tensor.label.split(".");
      parts.forEach((part, at) => {
        node.nbytes += tensor.nbytes;
        // a tensor and a module may have the same name
        const key = at === parts.length - 1 ? `${part}\u0000` : part;
        if (!node.children.has(key)) node.children.set(key, { name: part, children: new Map(), nbytes: 0 });
        node = node.children.get(key);
      });
      node.nbytes += tensor.nbytes;
    }
    const crumbs = make("nav", { class: "crumbs", "aria-label": "Where the map is" });
    const map = make("div", { class: "map", role: "group", "aria-label": "Map of bytes" });
    const note = make("p", { class: "quiet", role: "status" });
    host.append(crumbs, map, note);
    let path = [root];

    // A module with one child says no more than the child does.
    const down = (node) => {
      const found = [node];
      while (found.at(-1).children.size === 1 && [...found.at(-1).children.values()][0].children.size) found.push([...found.at(-1).children.values()][0]);
      return found;
    };
    path = down(root);

    function draw(focus) {
      const node = path.at(-1);
      crumbs.replaceChildren(
        ...path.map((one, at) =>
          make("button", { type: "button", "aria-current": at === path.length - 1 ? "true" : null, click: () => ((path = path.slice(0, at + 1)), draw(true)) }, isolated(one.name), ` ${sizeText(one.nbytes)}`),
        ),
      );
      const [width, height] = [map.clientWidth, map.clientHeight];
      const shaped = d3
        .hierarchy({ node, level: 0 }, (one) => (one.level < 2 ? [...one.node.children.values()].map((child) => ({ node: child, level: one.level + 1 })) : null))
        .sum((one) => (one.level === 2 || !one.node.children.size ? one.node.nbytes : 0))
        .sort((one, other) => other.value - one.value);
      d3.treemap().size([width, height]).paddingTop((one) => (one.depth === 1 && one.children ? 18 : 0)).round(true)(shaped);
      const tops = shaped.children ?? [];
      let small = 0;
      const tiles = [];
      for (const one of shaped.descendants().slice(1)) {
        const [wide, high] = [one.x1 - one.x0, one.y1 - one.y0];
        if (wide < 3 || high < 3) {
          small += 1;
          continue;
        }
        const top = one.depth === 1 ? one : one.parent;
        const said = `${one.data.node.name || "no name"}, ${sizeText(one.value)}`;
        const tile = make(
          "button",
          { type: "button", class: one.children ? "tile group" : "tile", title: said, "aria-label": said, click: () => enter(one.depth === 1 ? [one.data.node] : [one.parent.data.node, one.data.node]) },
          ...(wide > 30 && high > 14 ? [nameOf(one.data.node.name), ` ${sizeText(one.value)}`] : []),
        );
        Object.assign(tile.style, { left: `${one.x0}px`, top: `${one.y0}px`, width: `${wide}px`, height: `${high}px` });
        tile.style.setProperty("--hue", String((tops.indexOf(top) * 137.5 + 210) % 360));
        tiles.push(tile);
      }
      map.replaceChildren(...tiles);
      note.textContent = small ? `${small.toLocaleString("en")} parts are too small to be drawn here.` : "";
      if (focus) crumbs.lastElementChild?.focus();
    }

    function enter(nodes) {
      const inner = nodes.filter((one) => one.children.size);
      const last = inner.at(-1);
      if (!last) return;
      path = [...path, ...inner.slice(0, -1), ...down(last)];
      draw(true);
    }
    draw();
    maps.push(draw);
  }

  // ---- inspect -------------------------------------------------------------------------------------------------------

  const STATS = { min: 0, max: 1, mean: 2, std: 3, l2: 4, zeros: 5, nan: 6, inf: 7, points: 8, histogram: 9, heat: 10 };

  function bars(histograms) {
    const known = histograms.filter((one) => one?.[4].length > 1);
    if (!known.length) return null;
    const low = Math.min(...known.map((one) => one[0]));
    const high = Math.max(...known.map((one) => one[1]));
    const sums = new Array(32).fill(0);
    for (const [from, to, , , counts] of known) {
      const wide = (to - from) / counts.length;
      counts.forEach((count, at) => (sums[Math.min(31, Math.floor(((from + (at + 0.5) * wide - low) / (high - low)) * 32))] += count));
    }
    const most = Math.max(...sums);
    const drawn = document.createElementNS(SVG, "svg");
    drawn.setAttribute("viewBox", "0 0 96 18");
    drawn.setAttribute("class", "bars");
    drawn.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", sums.map((count, at) => (count ? `M${at * 3} 18v${-Math.max(1, Math.round((count / most) * 18))}h2.5V18z` : "")).join(""));
    drawn.append(path);
    return drawn;
  }

  function heat(place, found) {
    const [rows, columns, largest, packed] = found;
    const canvas = make("canvas", { width: columns, height: rows, class: "heat", role: "img", "aria-label": `A picture of the matrix: ${rows} by ${columns} cells, the largest ${numberText(largest)}` });
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    const bytes = atob(packed);
    for (let at = 0; at < bytes.length; at += 1) {
      const share = bytes.charCodeAt(at) / 255;
      // from dark blue over green to yellow, brighter all the way
      image.data.set([Math.round(255 * share ** 1.5), Math.round(20 + 225 * share), Math.round(90 + 70 * Math.sin(Math.PI * share) - 60 * share), 255], at * 4);
    }
    context.putImageData(image, 0, 0);
    place.append(make("figure", null, make("figcaption", null, `Size of the elements by place (root of the mean square): dark is 0, yellow is ${numberText(largest)}`), canvas));
  }

  function inspection() {
    const { name, shown, dtype, shape, stride, storage, nbytes, stats } = data;
    const text = (at) => shown[at] ?? name[at];
    const of = (row, key) => row.at.map((at) => stats[at]?.[STATS[key]]).filter((value) => value != null);
    const single = (at) => ({ label: text(at), names: [name[at].toLowerCase()], copy: name[at], at: [at], detail: (place) => detail(place, at) });

    function detail(place, at) {
      const said = [
        ["dtype", dtype[at]],
        ["shape", shape[at].join(" × ") || "scalar"],
        ["stride", stride[at]?.join(", ") ?? "row by row"],
        ["bytes", nbytes[at].toLocaleString("en")],
      ];
      const found = stats?.[at];
      if (found) {
        for (const key of ["min", "max", "mean", "std", "l2"]) if (found[STATS[key]] != null) said.push([key === "l2" ? "norm" : key, String(found[STATS[key]])]);
        for (const key of ["zeros", "nan", "inf"]) said.push([key, found[STATS[key]].toLocaleString("en")]);
        found[STATS.points].forEach((value, index) => said.push([`${POINTS[index]} below`, String(value)]));
      }
      const parts = make("div", { class: "parts" });
      parts.append(make("dl", { class: "facts" }, ...said.flatMap(([key, value]) => [make("dt", null, key), make("dd", null, value)])));
      place.append(parts);
      const histogram = found?.[STATS.histogram];
      let close;
      if (histogram?.[4].length > 1) {
        const [low, high, below, above, counts] = histogram;
        const wide = (high - low) / counts.length;
        close = plot(parts, {
          title: `Distribution: ${below.toLocaleString("en")} elements are below these bars, ${above.toLocaleString("en")} above`,
          x: counts.map((_, index) => low + index * wide),
          series: [{ label: "elements", values: counts, colour: "first", bars: true }],
          xLabel: "value",
          yLabel: "elements",
        });
      }
      if (found?.[STATS.heat]) heat(parts, found[STATS.heat]);
      return close;
    }

    const sum = (values) => values.reduce((one, other) => one + other, 0);
    const least = (values) => (values.length ? Math.min(...values) : null);
    const most = (values) => (values.length ? Math.max(...values) : null);
    const columns = [
      { head: "name", value: (row) => row.label },
      { head: "dtype", value: (row) => dtype[row.at[0]], cell: (row) => dtype[row.at[0]] },
      { head: "shape", value: (row) => shape[row.at[0]].reduce((one, other) => one * other, 1), cell: (row) => shape[row.at[0]].join("×") || "scalar" },
      { head: "stride", value: (row) => stride[row.at[0]]?.join(","), cell: (row) => stride[row.at[0]]?.join(",") },
      ...(storage ? [{ head: "storage", value: (row) => storage[row.at[0]], cell: (row) => isolated([...new Set([storage[row.at[0]], storage[row.at.at(-1)]])].join(" … ")) }] : []),
      { head: "size", number: true, value: (row) => sum(row.at.map((at) => nbytes[at])), cell: (row) => (row.at.length > 1 ? `${row.at.length}×` : "") + sizeText(nbytes[row.at[0]]) },
    ];
    if (stats) {
      columns.push(
        { head: "distribution", value: () => null, cell: (row) => bars(of(row, "histogram")) },
        { head: "min", number: true, value: (row) => least(of(row, "min")), cell: (row) => numberText(least(of(row, "min"))) },
        { head: "max", number: true, value: (row) => most(of(row, "max")), cell: (row) => numberText(most(of(row, "max"))) },
        { head: "mean", number: true, value: (row) => most(of(row, "mean")), cell: (row) => bandText(of(row, "mean")) },
        { head: "std", number: true, value: (row) => most(of(row, "std")), cell: (row) => bandText(of(row, "std")) },
        { head: "norm", number: true, value: (row) => most(of(row, "l2")), cell: (row) => bandText(of(row, "l2")) },
        ...[["zeros", "zeros"], ["NaN", "nan"], ["Inf", "inf"]].map(([head, key]) => ({ head, number: true, value: (row) => sum(of(row, key)), cell: (row) => countText(sum(of(row, key))) })),
      );
    }
    const rows = data.lines.map(([label, at]) => (at.length === 1 ? single(at[0]) : { label, at, members: at.map(single) }));
    const again = new Set(data.again);
    // The map comes first: it asks for its width, and the browser lays out all that is there to answer.
    treemap(document.getElementById("treemap"), name.map((_, at) => ({ label: text(at), nbytes: nbytes[at] })).filter((_, at) => !again.has(at)));
    table(document.getElementById("table"), { label: "Table of tensors", what: name.length === 1 ? "tensor" : "tensors", columns, rows });
    if (data.depth.length) depth(stats);
  }

  function depth(stats) {
    const select = document.getElementById("group");
    const host = document.getElementById("depth-plots");
    data.depth.forEach(([label], at) => select.append(make("option", { value: at }, label)));
    let closing = [];
    const draw = () => {
      closing.forEach((close) => close());
      const members = data.depth[Number(select.value)][1];
      const x = members.map(([number]) => number);
      const column = (key) => members.map(([, at]) => stats[at][STATS[key]]);
      const point = (index) => members.map(([, at]) => stats[at][STATS.points][index] ?? null);
      const [mean, std] = [column("mean"), column("std")];
      const at = (sign) => mean.map((value, index) => (value == null || std[index] == null ? null : value + sign * std[index]));
      const shared = { x, xLabel: "layer", integers: true };
      closing = [
        plot(host, {
          ...shared,
          title: "Mean, and one standard deviation around it",
          series: [
            { label: "mean", values: mean, colour: "first" },
            { label: "mean + std", values: at(1), colour: "third", width: 1 },
            { label: "mean − std", values: at(-1), colour: "third", width: 1 },
          ],
          bands: [[2, 3]],
          yLabel: "value",
        }),
        plot(host, {
          ...shared,
          title: "Quantiles",
          series: [1, 3, 4, 5, 7].map((index) => ({ label: POINTS[index], values: point(index), colour: index === 4 ? "first" : index === 3 || index === 5 ? "second" : "third", width: index === 4 ? 2 : 1 })),
          yLabel: "value",
        }),
        plot(host, { ...shared, title: "Norm (root of the sum of the squares)", series: [{ label: "norm", values: column("l2"), colour: "first" }], yLabel: "norm" }),
      ];
    };
    select.addEventListener("change", draw);
    draw();
  }

  // ---- diff ----------------------------------------------------------------------------------------------------------

  // An axis that starts at 0, so that layers that are nearly alike look so.
  const FROM_ZERO = (_, low, high) => [0, high > 0 ? high * 1.05 : 1];
  const CHANGE = "Change of each layer (norm of the difference, in % of the norm before)";
  const percent = (share) => (share == null ? null : share * 100);
  const percentText = (share) => (share == null ? "" : `${numberText(share * 100)} %`);

  // `series` are {label, colour, value(layer)}; a layer is a list that begins with its name.
  function byLayer(host, title, layers, series, yLabel, range = FROM_ZERO) {
    // Several stacks of layers, as of an encoder and a decoder, are plots of their own.
    const stacks = new Map();
    for (const layer of layers) {
      const [, stack, number] = /^(.*?)(\d+)$/.exec(layer[0]) ?? [null, layer[0], 0];
      if (!stacks.has(stack)) stacks.set(stack, []);
      stacks.get(stack).push([Number(number), layer]);
    }
    for (const [stack, members] of stacks) {
      members.sort((one, other) => one[0] - other[0]);
      plot(host, {
        title: stacks.size > 1 ? `${title}: ${stack}` : title,
        x: members.map(([number]) => number),
        series: series.map(({ label, colour, value }) => ({ label, colour, values: members.map(([, layer]) => value(layer)) })),
        xLabel: "layer",
        yLabel,
        integers: true,
        width: WIDE,
        range,
      });
    }
  }

  function difference() {
    const host = document.getElementById("depth-plots");
    if (host) {
      byLayer(host, CHANGE, data.layers, [{ label: "change in %", colour: "first", value: (layer) => percent(layer[3]) }], "change in %");
    }
    if (!data.changes.length) return;
    const columns = [
      { head: "name", value: (row) => row.label },
      { head: "what", value: (row) => row.of[2], cell: (row) => row.of[2] },
      { head: "change", number: true, value: (row) => row.of[3], cell: (row) => percentText(row.of[3]) },
      { head: "cosine", number: true, value: (row) => row.of[4], cell: (row) => (row.of[4] == null ? "" : row.of[4].toFixed(6)) },
      { head: "largest", number: true, value: (row) => row.of[5], cell: (row) => numberText(row.of[5]) },
      { head: "elements that differ", number: true, value: (row) => row.of[6], cell: (row) => percentText(row.of[6]) },
      { head: "detail", wide: true, value: (row) => row.of[7], cell: (row) => isolated(row.of[7]) },
    ];
    const rows = data.changes.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of, detail: (place) => changeDetail(place, of) }));
    table(document.getElementById("table"), { label: "Table of changes", what: rows.length === 1 ? "change" : "changes", columns, rows });
  }

  function threeWay() {
    const host = document.getElementById("depth-plots");
    if (host) {
      const sides = [["AFTER", "first", 2], ["OTHER", "second", 3]].map(([label, colour, at]) => ({ label, colour, value: (layer) => percent(layer[at]) }));
      byLayer(host, CHANGE, data.layers, sides, "change in %");
      if (data.layers.some((layer) => layer[4] != null)) {
        byLayer(host, "Angle between both changes (cosine: 1 is the same way, 0 has nothing in common)", data.layers, [{ label: "cosine", colour: "first", value: (layer) => layer[4] }], "cosine", () => [-1, 1]);
      }
    }
    if (!data.changes.length) return;
    const side = (at) => ({ value: (row) => row.of[at]?.[3] ?? null, cell: (row) => (row.of[at] ? `${row.of[at][2]} ${percentText(row.of[at][3])}`.trim() : "") });
    const columns = [
      { head: "name", value: (row) => row.label },
      { head: "changed by", value: (row) => row.of[2], cell: (row) => row.of[2] },
      { head: "AFTER", number: true, worded: true, ...side(5) },
      { head: "OTHER", number: true, worded: true, ...side(6) },
      { head: "cosine", number: true, value: (row) => row.of[3], cell: (row) => (row.of[3] == null ? "" : row.of[3].toFixed(3)) },
      { head: "results differ in", number: true, value: (row) => row.of[7], cell: (row) => countText(row.of[7]) },
      { head: "detail", wide: true, value: (row) => row.of[4], cell: (row) => isolated(row.of[4]) },
    ];
    const rows = data.changes.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of, detail: (place) => bothDetail(place, of) }));
    table(document.getElementById("table"), { label: "Table of changes", what: rows.length === 1 ? "change" : "changes", columns, rows });
  }

  function bothDetail(place, of) {
    const closing = [["AFTER", of[5]], ["OTHER", of[6]]].map(([label, change]) => {
      place.append(make("h3", null, change ? `${label}: ${change[2]}. ` : `${label}: as before.`, change ? isolated(change[7]) : null));
      return change && changeDetail(place, change);
    });
    return () => closing.forEach((close) => close?.());
  }

  function changeDetail(place, of) {
    const [, , , , , , , , before, after, index, elements, differing, energy] = of;
    const said = [["before", before ?? "not there"], ["after", after ?? "not there"]];
    if (differing != null && elements != null) said.push(["differ", `${differing.toLocaleString("en")} of ${elements.toLocaleString("en")} elements`]);
    if (index) said.push(["largest difference", `at [${index.join(", ")}]`]);
    const parts = make("div", { class: "parts" }, make("dl", { class: "facts" }, ...said.flatMap(([key, value]) => [make("dt", null, key), make("dd", null, isolated(value))])));
    place.append(parts);
    if (!energy.length) return null;
    return plot(parts, {
      title: "Share of the change in the first singular values",
      x: energy.map((_, at) => 2 ** at),
      series: [{ label: "share in %", values: energy.map((share) => share * 100), colour: "first" }],
      xLabel: "singular values",
      yLabel: "%",
    });
  }

  // ---- verify --------------------------------------------------------------------------------------------------------

  function verification() {
    data.outputs.forEach((output, at) => {
      const place = (name) => document.getElementById(`${name}-${at + 1}`);
      const number = data.outputs.length > 1 ? ` of output ${at + 1}` : "";
      if (output.wrong.length) {
        const columns = [
          { head: "name", value: (row) => row.label },
          { head: "what", value: (row) => row.of[2], cell: (row) => isolated(row.of[2]) },
          { head: "elements that differ", number: true, value: (row) => row.of[4], cell: (row) => percentText(row.of[4]) },
          { head: "first at", value: (row) => null, cell: (row) => (row.of[5] ? `[${row.of[5].join(", ")}]` : "") },
          { head: "expected", number: true, value: (row) => row.of[6], cell: (row) => String(row.of[6] ?? "") },
          { head: "found", number: true, value: (row) => row.of[7], cell: (row) => String(row.of[7] ?? "") },
          { head: "largest", number: true, value: (row) => row.of[8], cell: (row) => numberText(row.of[8]) },
          { head: "detail", wide: true, value: (row) => row.of[3], cell: (row) => isolated(row.of[3]) },
        ];
        const rows = output.wrong.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of }));
        table(place("wrong"), { label: `Table of differences${number}`, what: rows.length === 1 ? "difference" : "differences", columns, rows });
      }
      const host = place("plots");
      if (output.layers.length) byLayer(host, "What the change of dtype costs each layer (norm of the error, in % of the norm)", output.layers.map((one) => [one[1], one[4]]), [{ label: "error in %", colour: "first", value: (layer) => percent(layer[1]) }], "error in %");
      if (output.pairs.length) {
        const x = output.pairs.map(([ours]) => ours);
        plot(host, {
          title: "Logits against logits (largest, smallest, most different and one other at each position)",
          x,
          series: [
            { label: "equal", values: x, colour: "third", width: 1 },
            { label: "output", values: output.pairs.map(([, theirs]) => theirs), colour: "first", dots: true },
          ],
          xLabel: "source",
          yLabel: "output",
        });
      }
      for (const [values, title, yLabel] of [[output.kl, "KL divergence at each position", "nats"], [output.apart, "Largest difference of a logit at each position", "difference"]]) {
        if (values.some((value) => value)) plot(host, { title, x: values.map((_, index) => index), series: [{ label: yLabel, values, colour: "first" }], xLabel: "position", yLabel, integers: true, width: WIDE });
      }
      if (output.costs.length) {
        const columns = [
          { head: "name", value: (row) => row.label },
          { head: "dtype", value: (row) => row.of[2], cell: (row) => row.of[2] },
          { head: "elements", number: true, value: (row) => row.of[3], cell: (row) => row.of[3].toLocaleString("en") },
          { head: "error", number: true, value: (row) => row.of[4], cell: (row) => percentText(row.of[4]) },
          { head: "largest", number: true, value: (row) => row.of[5], cell: (row) => numberText(row.of[5]) },
        ];
        const rows = output.costs.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of }));
        table(place("costs"), { label: `Table of costs${number}`, what: rows.length === 1 ? "tensor" : "tensors", columns, rows });
      }
    });
  }

  // ---- scan ----------------------------------------------------------------------------------------------------------

  function scan() {
    const rows = data.files.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of }));
    const columns = [
      { head: "file", value: (row) => row.label },
      { head: "verdict", value: (row) => row.of[4], cell: (row) => row.of[4] },
      { head: "kind", value: (row) => row.of[2], cell: (row) => isolated(row.of[2]) },
      { head: "size", number: true, value: (row) => row.of[3], cell: (row) => sizeText(row.of[3]) },
      { head: "why", wide: true, value: (row) => row.of[5], cell: (row) => isolated(row.of[5]) },
    ];
    table(document.getElementById("table"), { label: "Table of files", what: rows.length === 1 ? "file" : "files", columns, rows });
  }

  // ---- batch ---------------------------------------------------------------------------------------------------------

  function batch() {
    const rows = data.tasks.map((of) => ({ label: of[1], names: [of[0].toLowerCase()], copy: of[0], of }));
    const columns = [
      { head: "checkpoint", value: (row) => row.label },
      { head: "state", value: (row) => row.of[2], cell: (row) => row.of[2] },
      { head: "size", number: true, value: (row) => row.of[6], cell: (row) => sizeText(row.of[6]) },
      { head: "written", number: true, value: (row) => row.of[7], cell: (row) => sizeText(row.of[7]) },
      { head: "attempts", number: true, value: (row) => row.of[8], cell: (row) => String(row.of[8]) },
      { head: "seconds", number: true, value: (row) => row.of[9], cell: (row) => row.of[9].toFixed(1) },
      { head: "why", wide: true, value: (row) => row.of[4], cell: (row) => isolated(row.of[4]) },
      { head: "output", wide: true, value: (row) => row.of[3], cell: (row) => isolated(row.of[3]) },
      { head: "left behind", wide: true, value: (row) => row.of[5], cell: (row) => isolated(row.of[5]) },
    ];
    table(document.getElementById("table"), { label: "Table of checkpoints", what: rows.length === 1 ? "checkpoint" : "checkpoints", columns, rows });
  }

  // ---- which page this is --------------------------------------------------------------------------------------------

  const PAGES = { inspection: () => data.name.length && inspection(), difference, three_way: threeWay, verification, scan, batch };
  PAGES[data.kind]?.();
})();
