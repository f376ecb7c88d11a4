// The list of runs: what each says is computed one after the other, and states follow the runs.
bindTables(document);
const rows = at("runs") ? [...at("runs").tBodies[0].rows] : [];
const cell = (row, name) => row.querySelector(`[data-cell=${name}]`);
const setCell = (row, name, text, value) => { const each = cell(row, name); each.textContent = text; each.dataset.value = value; };
const brief = async (n) => {
  const row = rows[n];
  try {
    const answer = await stream("brief", { run: data.runs[n].path });
    const badge = make("span");
    judge(badge, answer.verdict);
    cell(row, "verdict").replaceChildren(badge);
    cell(row, "verdict").dataset.value = String(VERDICTS.indexOf(answer.verdict));
    setCell(row, "coefficient", answer.text, answer.value === null ? "" : String(answer.value));
  } catch (error) {
    setCell(row, "coefficient", error.message, "");
  }
};
const briefs = async (numbers) => {
  for (const n of numbers) {
    at("state").textContent = `computing: ${n + 1} of ${rows.length} runs`;
    await brief(n);
  }
  at("state").textContent = "";
};
const followRuns = async () => {
  const answer = await ask("states", {});
  if (answer) {
    const known = new Map(answer.runs.map((each) => [each.path, each])), changed = [];
    const isNew = (run, n) => !known.has(run.path) || known.get(run.path).has_begun !== data.runs[n].has_begun;
    if (answer.runs.length > data.runs.length && data.runs.length < 1000 || data.runs.some(isNew)) { location.reload(); return; }
    data.runs.forEach((run, n) => {
      const now = known.get(run.path);
      if (now.state === run.state && now.steps === run.steps) return;
      data.runs[n] = now;
      setCell(rows[n], "state", now.state, now.state);
      setCell(rows[n], "steps", now.steps, now.steps.replaceAll(",", ""));
      if (now.has_begun) changed.push(n);
    });
    await briefs(changed);
  }
  setTimeout(followRuns, data.runs.every((each) => each.is_final) ? 10000 : 3000);
};
if (rows.length) briefs(data.runs.flatMap((each, n) => (each.has_begun ? [n] : []))).finally(followRuns);
