// Tokens: one after the other over all passages. `source` has their numbers: `get` gives what is there, `ask` a promise of it.
// Several runs may stand on a page: the names of the elements of each end in its suffix.
const explore = ({ data, source, suffix = "", isFirst = true, ready = null }) => {
  const at = (id) => document.getElementById(id + suffix);
  const tokens = [...at("passages").querySelectorAll(".t")], passageOf = new Int32Array(tokens.length), starts = [];
  const numberOf = new Map();
  data.passages.forEach((passage, n) => {
    const start = n ? starts[n - 1] + data.passages[n - 1].length : 0;
    starts.push(start);
    passageOf.fill(n, start, start + passage.length);
  });
  tokens.forEach((token, n) => {
    numberOf.set(token, n);
    token.setAttribute("role", "button");
    token.tabIndex = n === 0 ? 0 : -1;
  });
  const { layers, influence } = source;
  const layer = at("layer"), details = at("details"), tip = at("tip");
  at("controls").hidden = at("hint").hidden = false;
  let chosen = -1, focused = 0, waiting = null;
  // The token's number in the whole sequence.
  const index = (n) => n - starts[passageOf[n]] + (data.passages[passageOf[n]].start || 0);
  const place = (passage, position) => {
    const m = position - (data.passages[passage].start || 0);
    return m >= 0 && m < data.passages[passage].length ? starts[passage] + m : null;
  };
  const placeOf = (observable, sequence, position) => {
    const passage = data.passages.findIndex((each) => each.observable === observable && each.sequence === sequence);
    return passage < 0 ? null : place(passage, position);
  };
  const answer = (n) => {
    const passage = passageOf[n], start = starts[passage];
    return influence.get(n, passage, n - start, data.passages[passage].length, place);
  };

  // Which number a token has under what is shown, as [value, error].
  const none = () => [NaN, NaN];
  const shownLayer = () => (layers.length && layer.value !== "influence" ? layers[Number(layer.value)] : null);
  const numbers = () => {
    if (layer.value !== "influence") {
      const shown = shownLayer() && shownLayer().get();
      return shown ? (n) => [shown.value[n], shown.error[n]] : none;
    }
    const here = chosen < 0 ? null : answer(chosen);
    if (!here || !here.value) return none;
    const passage = passageOf[chosen], start = starts[passage];
    return (n) => (passageOf[n] === passage ? [here.value[n - start], here.error ? here.error[n - start] : NaN] : [NaN, NaN]);
  };
  const limit = (of) => {
    if (layer.value !== "influence") return (shownLayer() && shownLayer().get() || { limit: 1 }).limit;
    const sizes = tokens.map((_, n) => (n === chosen ? NaN : Math.abs(of(n)[0]))).filter(Number.isFinite).sort((a, b) => a - b);
    return sizes.length ? sizes[Math.floor(0.98 * (sizes.length - 1))] || 1 : 1;
  };
  const tellLegend = (text) => { at("legend-label").textContent = text; };
  const paint = () => {
    const of = numbers(), most = limit(of);
    tokens.forEach((token, n) => {
      const value = of(n)[0];
      const name = Number.isFinite(value) ? `t c${HALF + Math.floor(Math.max(-1, Math.min(1, value / most)) * HALF + 0.5)}` : "t";
      if (token.className !== name) token.className = name;
    });
    const isInfluence = layer.value === "influence";
    tellLegend(!isInfluence ? (shownLayer() ? shownLayer().label : "")
      : chosen < 0 ? "influence: choose a token" : `influence of the chosen token · ${influence.restriction}`);
    at("legend-low").textContent = number(-most, NaN);
    at("legend-high").textContent = number(most, NaN);
  };
  // Numbers that are not there yet are asked for.
  const colour = () => {
    paint();
    const shown = shownLayer();
    if (!shown || shown.get()) return;
    tellLegend(`${shown.label}: computing …`);
    shown.ask((done) => { if (shown === shownLayer()) tellLegend(`${shown.label}: computing, ${done}`); }).then(
      () => { if (shown === shownLayer()) paint(); },
      (error) => { if (shown === shownLayer()) tellLegend(`${shown.label}: ${error.message}`); });
  };

  const lines = (n) => {
    const passage = passageOf[n], [value, error] = numbers()(n);
    const label = layer.value === "influence" ? "influence" : shownLayer() ? shownLayer().label : "";
    return [`${tokens[n].textContent.trim() || "(space)"}`, `${data.passages[passage].label}, token ${index(n)}`,
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
  const flat = (text) => text.replace(/\n/g, "");
  const entries = (of) => {
    const list = make("ol");
    for (const each of of) {
      const leads = each.local === null && each.href !== null;
      const button = leads ? make("a", undefined, { href: each.href, class: "entry" }) : make("button", undefined, { type: "button", class: "entry" });
      button.append(make("strong", number(each.value, each.error)), ` ${each.label}, token ${each.position}\n…${flat(each.before)}`, make("b", flat(each.word)), `${flat(each.after)}…`);
      if (each.local !== null) button.addEventListener("click", () => focus(each.local));
      else if (!leads) button.disabled = true;
      const item = make("li");
      item.append(button);
      list.append(item);
    }
    return list.children.length ? list : make("p", "none");
  };
  const lists = (here) => [entries(here.sides[0]), make("h3", "Moves against it"), entries(here.sides[1]),
    ...here.notes.map((note) => make("p", note, { class: "note" })),
    ...(here.isPartial ? [make("p", "Errors are computed …", { class: "note", role: "status" })] : [])];
  const meaning = "Correlation of the losses over the posterior, ± jackknife error over chains; the influence of arXiv:2509.26544 is its negative.";
  const influences = () => {
    const n = chosen, box = make("div"), head = make("h3", `Moves with it (weights: ${influence.restriction})`);
    const draw = () => {
      box.replaceChildren(...lists(answer(n)), make("p", meaning, { class: "note" }));
      if (influence.more && !answer(n).isWhole) {
        const more = make("button", "Look in all data", { type: "button", id: `more${suffix}` });
        more.addEventListener("click", () => look(influence.more));
        box.append(more);
      }
    };
    const look = (ask) => {
      const control = waiting = new AbortController(), isShown = () => chosen === n && waiting === control;
      const said = make("p", "Looking for its strongest candidates in all data …", { role: "status", id: `asking${suffix}` });
      const bar = make("progress", undefined, { max: "1", "aria-label": "Progress" });
      const stop = make("button", "Stop", { type: "button", id: `stop${suffix}` });
      stop.addEventListener("click", () => control.abort());
      box.replaceChildren(said, bar, stop);
      const refresh = () => { if (isShown()) { draw(); if (layer.value === "influence") paint(); } };
      ask(n, {
        signal: control.signal,
        tell: (text, share) => { said.textContent = `Looking for its strongest candidates in all data: ${text}`; bar.value = share; },
        refresh,
      }).then(refresh, (error) => {
        if (isShown()) box.replaceChildren(make("p", control.signal.aborted ? "Stopped: choose the token again to go on." : error.message, { role: "status", id: `asking${suffix}` }));
      });
    };
    const here = answer(n);
    if (here) draw();
    if (!here || here.isPartial) look(influence.ask);
    return [head, box];
  };
  const describe = () => {
    if (waiting) waiting.abort();
    waiting = null;
    details.replaceChildren();
    details.hidden = chosen < 0;
    details.parentElement.classList.toggle("open", chosen >= 0);
    if (chosen < 0) return;
    const passage = passageOf[chosen], table = make("table"), body = make("tbody");
    details.append(make("h3", `“${tokens[chosen].textContent}”`), make("p", `${data.passages[passage].label}, token ${index(chosen)}`));
    for (const each of layers) {
      const got = each.get();
      if (!got) continue;
      const row = make("tr");
      row.append(make("th", each.label, { scope: "row" }), make("td", number(got.value[chosen], got.error[chosen])));
      body.append(row);
    }
    table.append(body);
    if (influence) details.append(...influences());
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
  const of = (event) => numberOf.get(event.target);
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
    else if (event.key === "/" && isFirst && !/^(INPUT|SELECT)$/.test(event.target.tagName)) { event.preventDefault(); at("search").focus(); }
  });
  addEventListener("scroll", () => { if (!tip.hidden) show(tipped); }, { passive: true });
  layer.addEventListener("change", colour);

  // Search: text that may run over several tokens.
  const search = at("search");
  let places = [], current = -1;
  const text = data.passages.map((passage, n) => {
    const ends = [];
    let whole = "";
    for (let m = starts[n]; m < starts[n] + passage.length; m++) { whole += tokens[m].textContent.replace(/⏎/g, "").toLowerCase(); ends.push(whole.length); }
    return { whole, ends };
  });
  const tell = () => { at("places").textContent = !search.value ? "" : places.length ? `${current + 1 || "-"} of ${places.length} places` : "not there"; };
  const find = () => {
    for (const token of at("passages").querySelectorAll("[data-hit]")) { delete token.dataset.hit; delete token.dataset.here; }
    places = [];
    current = -1;
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
    current = current < 0 ? (by > 0 ? 0 : places.length - 1) : (current + by + places.length) % places.length;
    tell();
    for (const token of at("passages").querySelectorAll("[data-here]")) delete token.dataset.here;
    tokens[places[current]].dataset.here = "";
    tokens[places[current]].scrollIntoView({ block: "center" });
    show(places[current]);
  };
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); step(event.shiftKey ? -1 : 1); } });
  at("next").addEventListener("click", () => step(1));
  at("previous").addEventListener("click", () => step(-1));
  if (ready) ready({
    focus,
    at: (n) => ({ passage: passageOf[n], position: index(n), place: placeOf }),
    place: placeOf,
    // What was computed may be of an earlier state of the run.
    forget: () => { source.forget(); colour(); if (chosen >= 0) describe(); },
  });
  colour();
};
