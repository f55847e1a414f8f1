"use strict";

// Number at the beginning of a cell: "1,024", "+0.4 ± 1.4", "9.77e-05", "0.33 [0.33, 0.34]".
const NUMBER = /^[+\-\u2212]?\d[\d,]*(?:\.\d+)?(?:e[+\-]?\d+)?/i;

function textOf(row, column) {
  return row.cells[column].textContent.trim();
}

function numberOf(text) {
  const found = text.match(NUMBER);
  return found ? Number(found[0].replaceAll(",", "").replace("\u2212", "-")) : NaN;
}

function sortBy(table, column) {
  const header = table.tHead.rows[0].cells[column];
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const rows = Array.from(table.tBodies[0].rows);
  const known = (text) => text !== "" && text !== "n/a" && text !== "missing";
  const texts = rows.map((row) => textOf(row, column)).filter(known);
  const numeric = texts.every((text) => !Number.isNaN(numberOf(text)));
  const sign = direction === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const [first, second] = [textOf(a, column), textOf(b, column)];
    // Empty cells stay at the end in either direction.
    if (!known(first) || !known(second)) return known(second) - known(first);
    return sign * (numeric ? numberOf(first) - numberOf(second) : first.localeCompare(second, "en", { numeric: true }));
  });
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
  table.tBodies[0].append(...rows);
}

function asCsv(table) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return Array.from(table.rows, (row) => Array.from(row.cells, (cell) => quoted(cell.textContent.trim())).join(",") + "\n").join("");
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// A reader of a printed page cannot unfold anything. Longer tables, which would fill many sheets, stay folded.
const LONG = 60;
let unfolded = [];
addEventListener("beforeprint", () => {
  const folded = Array.from(document.querySelectorAll("details:not([open])"));
  unfolded = folded.filter((part) => part.querySelectorAll("tbody tr").length <= LONG);
  for (const part of unfolded) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of unfolded) part.open = false;
});

for (const table of document.querySelectorAll("table.sortable")) {
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    // Unlike a click on the cell, a button works from the keyboard too.
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sortBy(table, column));
    header.replaceChildren(button);
  });
  const button = document.createElement("button");
  button.type = "button";
  button.className = "download";
  button.textContent = "Download this table as CSV";
  button.addEventListener("click", () => download(`${table.dataset.name}.csv`, asCsv(table)));
  table.closest("figure").append(button);
}
