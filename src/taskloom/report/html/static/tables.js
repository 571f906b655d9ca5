// Tables: sorted by a column's head, filtered by a search field.
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function sortValue(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.v ?? cell.textContent.trim();
  if (value === "" || value === "–") return null;
  const plain = value.replace("−", "-").replace(/[,%]/g, "").trim();
  return plain !== "" && Number.isFinite(+plain) ? +plain : value;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return collator.compare(a, b);
}

function sortBy(table, head, column) {
  const descending = head.getAttribute("aria-sort") === "ascending" ||
    (head.getAttribute("aria-sort") !== "descending" && head.classList.contains("n"));
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, value: sortValue(row, column) }));
  rows.sort((a, b) => {
    // What is not known stays below, whichever way.
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
    return (descending ? -1 : 1) * compare(a.value, b.value) || a.place - b.place;
  });
  body.append(...rows.map((each) => each.row));
}

for (const table of document.querySelectorAll("table[data-sort]")) {
  const heads = table.tHead.rows;
  const last = heads[heads.length - 1];
  const spanning = [...heads[0].cells].filter((cell) => cell.rowSpan > 1);
  const cells = heads.length > 1 ? [...spanning, ...last.cells] : [...last.cells];
  cells.forEach((head, column) => {
    if (head.dataset.nosort !== undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", (event) => {
      if (event.target.closest("a")) return;
      sortBy(table, head, column);
    });
  });
}

for (const field of document.querySelectorAll("input[data-filter]")) {
  const rows = [...document.getElementById(field.dataset.filter).tBodies[0].rows];
  const names = rows.map((row) => row.cells[0].textContent.toLowerCase());
  const count = field.closest("p").querySelector(".count");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let shown = 0;
    rows.forEach((row, place) => {
      row.hidden = !names[place].includes(wanted);
      shown += !row.hidden;
    });
    count.textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
}

// A row of a sweep shows its line.
for (const table of document.querySelectorAll("table[data-lines]")) {
  const picture = document.getElementById(table.dataset.lines);
  if (!picture) continue;
  const lines = new Map([...picture.querySelectorAll("[data-line]")].map((line) => [line.dataset.line, line]));
  let shown = null;
  const show = (row) => {
    shown?.classList.remove("shown");
    shown = row && lines.get(row.dataset.line);
    shown?.classList.add("shown");
  };
  for (const row of table.querySelectorAll("tr[data-line]")) row.tabIndex = 0;
  const body = table.tBodies[0];
  body.addEventListener("pointerover", (event) => show(event.target.closest("tr[data-line]")));
  body.addEventListener("pointerleave", () => show(null));
  body.addEventListener("focusin", (event) => show(event.target.closest("tr[data-line]")));
  body.addEventListener("focusout", () => show(null));
}
