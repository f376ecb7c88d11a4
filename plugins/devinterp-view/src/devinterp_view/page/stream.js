// Answers of the server: lines of JSON, of which the last is the answer and those before say how far it is.
const trouble = (text) => {
  const place = at("trouble");
  if (!place) return;
  place.textContent = text;
  place.hidden = !text;
};
const failed = (line) => { if (line.gone) trouble(line.error); return new Error(line.error); };
const stream = async (path, query, { tell, give, signal } = {}) => {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`, { signal, cache: "no-store" }).catch((error) => {
    if (signal && signal.aborted) throw error;
    trouble("The server does not answer: was `devinterp view` stopped?");
    throw new Error("the server does not answer");
  });
  if (!response.ok || !response.body) throw new Error(`the server answered ${response.status}`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer was cut off");
    rest += value;
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const text of lines) {
      const line = JSON.parse(text);
      if (line.error !== undefined) throw failed(line);
      if (line.result !== undefined) { trouble(""); return line.result; }
      if (line.pieces !== undefined && give) give(line.pieces);
      if (line.progress !== undefined && tell) tell(line.progress, line.share);
    }
  }
};
// How far runs are: small answers, asked again and again.
const ask = async (path, query) => {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`, { cache: "no-store" }).catch(() => null);
  if (!response || !response.ok) { trouble("The server does not answer: was `devinterp view` stopped?"); return null; }
  const answer = await response.json();
  if (answer.error !== undefined) { trouble(answer.error); return null; }
  trouble("");
  return answer;
};
// The choice of colours goes from page to page.
try {
  const kept = sessionStorage.getItem("devinterp-theme");
  if (choices.includes(kept)) setTheme(kept);
  theme.addEventListener("click", () => sessionStorage.setItem("devinterp-theme", theme.lastElementChild.textContent));
} catch (error) { /* a browser that keeps nothing */ }
const VERDICTS = ["ok", "note", "warning", "reject"];
const judge = (badge, verdict) => {
  badge.className = `badge ${VERDICTS.includes(verdict) ? verdict : "note"}`;
  badge.textContent = verdict;
};
