"use strict";
// Tables sort by the column whose head is pressed: numbers by value, empty cells last.
function valueOf(cell) {
  const text = cell.textContent.trim().replace(/\u2212/g, "-").replace(/^</, "").replace(/,(?=\d{3})/g, "");
  const number = parseFloat(text);
  return text === "" ? null : Number.isNaN(number) || !/^[\s+-]*[.\d]/.test(text) ? text.toLowerCase() : number;
}
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === typeof b) return sign * (a < b ? -1 : a > b ? 1 : 0);
  return typeof a === "number" ? -1 : 1;
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const rows = Array.from(body.rows, (row) => [valueOf(row.cells[head.cellIndex]), row]);
    rows.sort((a, b) => compare(a[0], b[0], sign));
    body.append(...rows.map((pair) => pair[1]));
  });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
