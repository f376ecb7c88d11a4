bindTables(document);
if (data.passages.length) explore(typeof explorer === "undefined" ? null : (made) => { explorer = made; });
