const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const HALF = 10;

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
const setTheme = (choice) => {
  theme.lastElementChild.textContent = choice;
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
};
theme.hidden = false;
theme.addEventListener("click", () => setTheme(choices[(choices.indexOf(theme.lastElementChild.textContent) + 1) % 3]));

// Tables.
const key = (row, column) => {
  const cell = row.children[column], value = cell.dataset.value;
  if (column === 0) return value;
  return value === "" || value === undefined ? NaN : Number(value);
};
const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
const missing = (value) => typeof value === "number" && Number.isNaN(value);
const bindTables = (root) => {
  for (const table of root.querySelectorAll("table.sortable")) {
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
  for (const filter of root.querySelectorAll(".filter")) filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase(), rows = [...filter.closest("section").querySelector("tbody").rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    filter.closest("p").querySelector("[role=status]").textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
};
