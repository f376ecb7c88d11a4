bindTables(document);
if (data.passages.length) explore();
