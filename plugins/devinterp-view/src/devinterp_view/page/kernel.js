// In a notebook: while its kernel is alive, it looks for a token's candidates in all data.
const source = embedded(data);
let explorer = null;
if (source.influence) {
  const asked = new Map(), known = new Map(), fromFile = source.influence.get;
  let count = Math.floor(Math.random() * 2 ** 40); // a widget may be shown several times, and its kernel tells all
  const ask = (n, { signal, tell, refresh }) => new Promise((resolve, reject) => {
    const id = ++count, { passage, position, place } = explorer.at(n), { observable, sequence } = data.passages[passage];
    const keep = (answer, isPartial) => known.set(n, { ...remembered(answer, place), isPartial });
    signal.addEventListener("abort", () => {
      if (!asked.delete(id)) return;
      if (known.has(n) && known.get(n).isPartial) known.delete(n);
      parent.postMessage({ kind: "stop", id }, "*");
      reject(new Error("stopped"));
    });
    asked.set(id, {
      resolve: (answer) => { keep(answer, false); resolve(); },
      reject: (error) => { known.delete(n); reject(error); },
      part: (answer) => { keep(answer, true); refresh(); },
      tell,
    });
    parent.postMessage({ kind: "influence", id, observable, sequence, token: position }, "*");
  });
  const remembered = (answer, place) => ({
    sides: answer.sides.map((side) => side.map((each) => ({ ...each, href: null, local: place(each.observable, each.sequence, each.position) }))),
    value: floats(answer.value), error: answer.error === null ? null : floats(answer.error), notes: answer.notes, isWhole: true,
  });
  source.influence.get = (n, ...rest) => known.get(n) || fromFile(n, ...rest);
  addEventListener("message", (event) => {
    if (event.source !== parent || !event.data) return;
    const { kind, id, answer, error, text, share } = event.data;
    if (kind === "alive") source.influence.more = ask;
    if (!asked.has(id)) return;
    const waiting = asked.get(id);
    if (kind === "progress") waiting.tell(text, share);
    if (kind === "part") waiting.part(answer);
    if (kind !== "answer") return;
    asked.delete(id);
    if (error === undefined) waiting.resolve(answer);
    else waiting.reject(new Error(error));
  });
  parent.postMessage({ kind: "hello" }, "*");
}
bindTables(document);
if (data.passages.length) explore({ data, source, ready: (made) => { explorer = made; } });
