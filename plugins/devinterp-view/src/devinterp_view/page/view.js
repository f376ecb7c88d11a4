// A run in the viewer: pages, search in all sequences, parts that are computed after the page is there, and what is new.
const server = data.server;
if (data.passages.length) explore({ data, source, ready: (made) => { explorer = made; } });

const visit = (changes) => {
  const query = { run: server.run, observable: server.observable, page: server.page, restriction: server.restriction, ...changes };
  location.href = `run?${new URLSearchParams(query)}`;
};
if (at("look")) {
  const page = at("page"), limitOfPages = (n) => Math.min(Math.max(Math.round(n) || 1, 1), server.num_pages) - 1;
  at("observable").addEventListener("change", (event) => visit({ observable: event.target.value, page: 0 }));
  at("restriction").addEventListener("change", (event) => visit({ restriction: event.target.value }));
  at("page-back").addEventListener("click", () => visit({ page: server.page - 1 }));
  at("page-on").addEventListener("click", () => visit({ page: server.page + 1 }));
  page.addEventListener("keydown", (event) => { if (event.key === "Enter") visit({ page: limitOfPages(page.valueAsNumber) }); });

  const hits = at("hits"), looking = at("looking"), stop = at("stop-looking"), wanted = at("everywhere");
  let control = null;
  const give = (each) => {
    const item = make("li"), link = make("a", undefined, { href: each.href, class: "entry" });
    link.append(`${each.label}, token ${each.position}\n…${each.before.replace(/\n/g, "")}`, make("b", each.word.replace(/\n/g, "")), `${each.after.replace(/\n/g, "")}…`);
    item.append(link);
    hits.append(item);
    hits.hidden = false;
  };
  const look = () => {
    if (control) control.abort();
    const own = control = new AbortController(), mine = () => own === control;
    hits.replaceChildren();
    hits.hidden = true;
    stop.hidden = false;
    looking.textContent = "looking …";
    stream("search", { run: server.run, text: wanted.value }, {
      signal: own.signal,
      tell: (text) => { if (mine()) looking.textContent = `looking: ${text}`; },
      give: (some) => { if (mine()) some.forEach(give); },
    }).then((answer) => {
      if (!mine()) return;
      hits.replaceChildren();
      answer.hits.forEach(give);
      looking.textContent = `${answer.places || "no"} place${answer.places === 1 ? "" : "s"}. ${answer.note}`;
    }, (error) => { if (mine()) looking.textContent = own.signal.aborted ? "Stopped." : error.message; })
      .finally(() => { if (mine()) stop.hidden = true; });
  };
  at("look-everywhere").addEventListener("click", look);
  wanted.addEventListener("keydown", (event) => { if (event.key === "Enter") look(); });
  stop.addEventListener("click", () => control && control.abort());
}

// An address may end in the sequence and the token to go to.
const goTo = () => {
  const [, sequence, position] = /^#(\d+)-(\d+)$/.exec(location.hash) || [];
  const n = sequence === undefined || !explorer ? null : explorer.place(server.observable, Number(sequence), Number(position));
  if (n !== null) explorer.focus(n);
};
addEventListener("hashchange", goTo);

// What takes longer is put where it belongs when it is there.
const fill = async (name) => {
  const place = at(`part-${name}`), note = place.querySelector(".note[role=status]");
  try {
    const answer = await stream("part", { run: server.run, name }, { tell: (text) => { if (note) note.textContent = `computing: ${text}`; } });
    place.innerHTML = answer.html;
    bindTables(place);
    if (answer.verdict !== undefined) judge(at("verdict"), answer.verdict);
    if (answer.headline !== undefined) at("headline").textContent = answer.headline;
  } catch (error) {
    if (note) note.textContent = error.message;
  }
};
const fillAll = async () => { for (const name of server.parts) await fill(name); };

// While a run goes on, what is new is shown.
const follow = async () => {
  const state = await ask("state", { run: server.run });
  if (state && state.stamp !== server.stamp) {
    server.stamp = state.stamp;
    at("state").textContent = `${state.state}, ${state.steps} steps done`;
    if (explorer) explorer.forget();
    await fillAll();
  }
  setTimeout(follow, state && state.is_final ? 10000 : 2000);
};
goTo();
fillAll().finally(follow);
