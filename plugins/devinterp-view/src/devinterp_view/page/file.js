bindTables(document);
(data.runs || [data]).forEach((run, n) => {
  if (run.passages.length) explore({ data: run, source: embedded(run), suffix: data.runs ? `-${n}` : "", isFirst: n === 0 });
});
