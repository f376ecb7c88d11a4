"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const COLOURS = 21, HALF = 10;

  const unpack = (text, Kind) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Kind(bytes.buffer);
  };
  const floats = (text) => unpack(text, Float32Array);
  const once = (make) => { let value; return () => (value === undefined ? (value = make()) : value); };

  // As devinterp_view.text.number.
  const number = (value, error) => {
    if (!Number.isFinite(value)) return "–";
    const plain = (v, n) => String(Number(v.toPrecision(n)));
    if (!Number.isFinite(error)) return plain(value, 4);
    if (error <= 0) return plain(value, 4) + " ± 0";
    const digits = 1 - Math.floor(Math.log10(error));
    if (digits >= 0 && digits <= 6) return value.toFixed(digits) + " ± " + error.toFixed(digits);
    if (digits < 0 && digits >= -4) {
      const unit = 10 ** -digits;
      return Math.round(value / unit) * unit + " ± " + Math.round(error / unit) * unit;
    }
    return plain(value, 4) + " ± " + plain(error, 2);
  };

  const make = (tag, text, attributes) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
    return element;
  };

  // Colours of the page.
  const theme = at("theme"), choices = ["system", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = choices[(choices.indexOf(theme.lastElementChild.textContent) + 1) % 3];
    theme.lastElementChild.textContent = next;
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
  });

  // Tables.
  const key = (row, column) => {
    const cell = row.children[column], value = cell.dataset.value;
    if (column === 0) return value;
    return value === "" || value === undefined ? NaN : Number(value);
  };
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  const missing = (value) => typeof value === "number" && Number.isNaN(value);
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const order = before === "none" ? (column === 0 ? "ascending" : "descending") : before === "ascending" ? "descending" : "ascending";
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => (missing(a) ? (missing(b) ? 0 : 1) : missing(b) ? -1 : sign * compare(a, b)));
      body.append(...rows.map(([, row]) => row));
    }));
  }
  const filter = at("filter");
  if (filter) filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase(), rows = [...at("restriction-table").tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    at("filtered").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });

  if (!data.passages.length) return;

  // Tokens: one after the other over all passages.
  const tokens = [...document.querySelectorAll(".t")], passageOf = new Int32Array(tokens.length), starts = [];
  const number_of = new Map();
  data.passages.forEach((passage, n) => {
    const start = n ? starts[n - 1] + data.passages[n - 1].length : 0;
    starts.push(start);
    passageOf.fill(n, start, start + passage.length);
  });
  tokens.forEach((token, n) => {
    number_of.set(token, n);
    token.setAttribute("role", "button");
    token.tabIndex = n === 0 ? 0 : -1;
  });
  const layers = data.layers.map((layer) => ({
    ...layer, value: once(() => floats(layer.values)), error: once(() => floats(layer.errors)),
  }));
  const influence = data.influence && {
    ...data.influence,
    block: data.influence.blocks.map((each) => once(() => each && floats(each))),
    blockError: data.influence.block_errors.map((each) => once(() => each && floats(each))),
    value: once(() => floats(data.influence.values)), error: once(() => floats(data.influence.errors)),
    rowOf: once(() => unpack(data.influence.row, Int32Array)),
    positionOf: once(() => unpack(data.influence.position, Int32Array)),
  };
  const layer = at("layer"), details = at("details"), tip = at("tip"), legend = at("legend");
  at("controls").hidden = at("hint").hidden = false;
  let chosen = -1, focused = 0;

  // Which number a token has under what is shown, as [value, error].
  const numbers = () => {
    if (layer.value !== "influence") {
      const shown = layers[Number(layer.value)];
      return shown ? (n) => [shown.value()[n], shown.error()[n]] : () => [NaN, NaN];
    }
    if (chosen < 0) return () => [NaN, NaN];
    const passage = passageOf[chosen], start = starts[passage], length = data.passages[passage].length;
    const block = influence.block[passage](), errors = influence.blockError[passage]();
    if (!block) return () => [NaN, NaN];
    const from = (chosen - start) * length;
    return (n) => passageOf[n] === passage ? [block[from + n - start], errors ? errors[from + n - start] : NaN] : [NaN, NaN];
  };
  const limit = (of) => {
    if (layer.value !== "influence") return layers.length ? layers[Number(layer.value)].limit : 1;
    const sizes = tokens.map((_, n) => (n === chosen ? NaN : Math.abs(of(n)[0]))).filter(Number.isFinite).sort((a, b) => a - b);
    return sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] || 1 : 1;
  };
  const paint = () => {
    const of = numbers(), most = limit(of);
    tokens.forEach((token, n) => {
      const value = of(n)[0];
      const name = Number.isFinite(value) ? `t c${HALF + Math.floor(Math.max(-1, Math.min(1, value / most)) * HALF + 0.5)}` : "t";
      if (token.className !== name) token.className = name;
    });
    const isInfluence = layer.value === "influence";
    at("legend-label").textContent = !isInfluence ? (layers.length ? layers[Number(layer.value)].label : "")
      : chosen < 0 ? "influence: choose a token" : `influence of the chosen token · ${influence.restriction}`;
    at("legend-low").textContent = number(-most, NaN);
    at("legend-high").textContent = number(most, NaN);
  };

  const lines = (n) => {
    const passage = passageOf[n], [value, error] = numbers()(n);
    const label = layer.value === "influence" ? "influence" : layers.length ? layers[Number(layer.value)].label : "";
    return [`${tokens[n].textContent.trim() || "(space)"}`, `${data.passages[passage].label}, token ${n - starts[passage]}`,
      `${label}: ${number(value, error)}`];
  };
  let tipped = -1;
  const show = (n) => {
    tipped = n;
    tip.textContent = lines(n).join("\n");
    tip.hidden = false;
    const box = tokens[n].getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(4, box.left), innerWidth - own.width - 8);
    const top = box.bottom + own.height + 12 > innerHeight ? box.top - own.height - 6 : box.bottom + 6;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  };
  const hide = () => { tip.hidden = true; };

  // Details of the chosen token.
  const context = (row, position) => {
    const texts = influence.rows[row].tokens, word = (n) => influence.vocabulary[texts[n]];
    const span = (from, to) => { let text = ""; for (let n = Math.max(0, from); n < Math.min(texts.length, to); n++) text += word(n); return text.replace(/\n/g, ""); };
    return [span(position - 8, position), span(position, position + 1), span(position + 1, position + 4)];
  };
  const entries = (n, sign) => {
    const list = make("ol");
    for (let rank = 0; rank < influence.rank; rank++) {
      const at_ = (n * 2 + sign) * influence.rank + rank, row = influence.rowOf()[at_], position = influence.positionOf()[at_];
      if (row < 0) continue;
      const button = make("button", undefined, { type: "button" }), [before, word, after] = context(row, position);
      button.append(make("strong", number(influence.value()[at_], influence.error()[at_])), ` ${influence.rows[row].label}, token ${position}\n…${before}`, make("b", word), `${after}…`);
      const passage = influence.rows[row].passage;
      if (passage !== null && position < data.passages[passage].length) {
        button.addEventListener("click", () => focus(starts[passage] + position));
      } else button.disabled = true;
      const item = make("li");
      item.append(button);
      list.append(item);
    }
    return list.children.length ? list : make("p", "none");
  };
  const describe = () => {
    details.replaceChildren();
    details.hidden = chosen < 0;
    details.parentElement.classList.toggle("open", chosen >= 0);
    if (chosen < 0) return;
    const passage = passageOf[chosen], table = make("table"), body = make("tbody");
    details.append(make("h3", `“${tokens[chosen].textContent}”`), make("p", `${data.passages[passage].label}, token ${chosen - starts[passage]}`));
    for (const each of layers) {
      const row = make("tr");
      row.append(make("th", each.label, { scope: "row" }), make("td", number(each.value()[chosen], each.error()[chosen])));
      body.append(row);
    }
    table.append(body);
    if (influence) {
      details.append(make("h3", `Moves with it (weights: ${influence.restriction})`), entries(chosen, 0), make("h3", "Moves against it"), entries(chosen, 1));
      details.append(make("p", "Correlation of the losses over the posterior, ± jackknife error over chains; the influence of arXiv:2509.26544 is its negative.", { class: "note" }));
    }
    details.append(make("h3", "Numbers of the token"), table);
  };
  const choose = (n) => {
    if (chosen >= 0) tokens[chosen].removeAttribute("aria-pressed");
    chosen = n === chosen ? -1 : n;
    if (chosen >= 0) tokens[chosen].setAttribute("aria-pressed", "true");
    describe();
    if (layer.value === "influence") paint();
  };
  const focus = (n) => {
    tokens[focused].tabIndex = -1;
    focused = n;
    tokens[n].tabIndex = 0;
    tokens[n].focus();
    tokens[n].scrollIntoView({ block: "nearest" });
  };

  // Up and down go to the token of the next line that lies nearest.
  const vertical = (n, direction) => {
    const here = tokens[n].getBoundingClientRect(), middle = (here.left + here.right) / 2;
    let best = -1, line = null, distance = Infinity;
    for (let m = n + direction; m >= 0 && m < tokens.length; m += direction) {
      const box = tokens[m].getBoundingClientRect();
      if (direction > 0 ? box.top <= here.top + 2 : box.top >= here.top - 2) continue;
      if (line !== null && Math.abs(box.top - line) > 2) break;
      line = box.top;
      const off = Math.abs((box.left + box.right) / 2 - middle);
      if (off < distance) [best, distance] = [m, off];
    }
    return best < 0 ? n : best;
  };
  const passages = at("passages");
  const of = (event) => number_of.get(event.target);
  passages.addEventListener("pointerover", (event) => { const n = of(event); if (n === undefined) hide(); else show(n); });
  passages.addEventListener("pointerleave", hide);
  passages.addEventListener("focusin", (event) => { const n = of(event); if (n !== undefined) { tokens[focused].tabIndex = -1; focused = n; tokens[n].tabIndex = 0; show(n); } });
  passages.addEventListener("focusout", hide);
  passages.addEventListener("click", (event) => { const n = of(event); if (n !== undefined) choose(n); });
  passages.addEventListener("keydown", (event) => {
    const n = of(event);
    if (n === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const start = starts[passageOf[n]], last = start + data.passages[passageOf[n]].length - 1;
    const moves = { ArrowRight: () => Math.min(n + 1, tokens.length - 1), ArrowLeft: () => Math.max(n - 1, 0), ArrowDown: () => vertical(n, 1), ArrowUp: () => vertical(n, -1), Home: () => start, End: () => last };
    if (event.key in moves) { event.preventDefault(); focus(moves[event.key]()); }
    else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(n); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(); if (chosen >= 0) choose(chosen); }
    else if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) { event.preventDefault(); at("search").focus(); }
  });
  addEventListener("scroll", () => { if (!tip.hidden) show(tipped); }, { passive: true });
  layer.addEventListener("change", paint);

  // Search: text that may run over several tokens.
  const search = at("search");
  let places = [], place = -1;
  const text = data.passages.map((passage, n) => {
    const ends = [];
    let whole = "";
    for (let m = starts[n]; m < starts[n] + passage.length; m++) { whole += tokens[m].textContent.replace(/⏎/g, "").toLowerCase(); ends.push(whole.length); }
    return { whole, ends };
  });
  const tell = () => { at("places").textContent = !search.value ? "" : places.length ? `${place + 1 || "-"} of ${places.length} places` : "not there"; };
  const find = () => {
    for (const token of document.querySelectorAll("[data-hit]")) { delete token.dataset.hit; delete token.dataset.here; }
    places = [];
    place = -1;
    const wanted = search.value.toLowerCase();
    if (wanted) text.forEach(({ whole, ends }, n) => {
      for (let from = whole.indexOf(wanted); from >= 0 && places.length < 10000; from = whole.indexOf(wanted, from + 1)) {
        const first = ends.findIndex((end) => end > from), last = ends.findIndex((end) => end >= from + wanted.length);
        places.push(starts[n] + first);
        for (let m = first; m <= last; m++) tokens[starts[n] + m].dataset.hit = "";
      }
    });
    tell();
  };
  const step = (by) => {
    if (!places.length) return;
    place = place < 0 ? (by > 0 ? 0 : places.length - 1) : (place + by + places.length) % places.length;
    tell();
    for (const token of document.querySelectorAll("[data-here]")) delete token.dataset.here;
    tokens[places[place]].dataset.here = "";
    tokens[places[place]].scrollIntoView({ block: "center" });
    show(places[place]);
  };
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); step(event.shiftKey ? -1 : 1); } });
  at("next").addEventListener("click", () => step(1));
  at("previous").addEventListener("click", () => step(-1));
  paint();
})();
