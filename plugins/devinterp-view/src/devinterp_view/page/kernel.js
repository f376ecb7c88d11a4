// In a notebook: while its kernel is alive, it looks for a token's candidates in all data.
const source = embedded(data);
let explorer = null;
if (source.influence) {
  const asked = new Map(), known = new Map(), fromFile = source.influence.get;
  let count = 0;
  const ask = (n, { signal }) => new Promise((resolve, reject) => {
    const id = ++count, { passage, position, place } = explorer.at(n), { observable, sequence } = data.passages[passage];
    signal.addEventListener("abort", () => { asked.delete(id); reject(new Error("stopped")); });
    asked.set(id, { resolve: (answer) => { known.set(n, remembered(answer, place)); resolve(); }, reject });
    parent.postMessage({ kind: "influence", id, observable, sequence, token: position }, "*");
  });
  const remembered = (answer, place) => ({
    sides: answer.sides.map((side) => side.map((each) => ({ ...each, href: null, local: place(each.observable, each.sequence, each.position) }))),
    value: floats(answer.value), error: answer.error === null ? null : floats(answer.error), notes: answer.notes, isWhole: true,
  });
  source.influence.get = (n, ...rest) => known.get(n) || fromFile(n, ...rest);
  addEventListener("message", (event) => {
    if (event.source !== parent || !event.data) return;
    const { kind, id, answer, error } = event.data;
    if (kind === "alive") source.influence.more = ask;
    if (kind !== "answer" || !asked.has(id)) return;
    const { resolve, reject } = asked.get(id);
    asked.delete(id);
    if (error === undefined) resolve(answer);
    else reject(new Error(error));
  });
  parent.postMessage({ kind: "hello" }, "*");
}
bindTables(document);
if (data.passages.length) explore({ data, source, ready: (made) => { explorer = made; } });
