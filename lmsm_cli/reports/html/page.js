"use strict";
// Sorting by a click: without a script the tables stand as they are, and no button promises more.
const cellOf = (row, column) => row.cells[column];
const valueOf = (cell) => cell.dataset.order ?? cell.textContent.trim();

function compare(one, other) {
  const [a, b] = [Number(one), Number(other)];
  return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other, undefined, { numeric: true }) : a - b;
}

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const isEmpty = (row) => ["", "-"].includes(valueOf(cellOf(row, column)));
  const rows = [...body.rows].map((row, place) => ({ row, place }));
  rows.sort((one, other) =>
    isEmpty(one.row) - isEmpty(other.row) ||
    direction * compare(valueOf(cellOf(one.row, column)), valueOf(cellOf(other.row, column))) ||
    one.place - other.place);
  body.append(...rows.map(({ row }) => row));
}

function onClick(table, heading) {
  const isText = heading.dataset.sort === "text";
  const before = heading.getAttribute("aria-sort");
  const after = before === null ? (isText ? "ascending" : "descending")
    : before === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", after);
  sortBy(table, heading.cellIndex, after === "ascending" ? 1 : -1);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => onClick(table, heading));
  }
}
