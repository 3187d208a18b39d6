// A click on a header sorts its table; cells without a value stay last.
"use strict";
const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const keyed = [...table.tBodies[0].rows].map((row) => [row.cells[column].dataset.key, row]);
      const missing = keyed.filter(([key]) => key === "");
      const sorted = keyed.filter(([key]) => key !== "").sort(([a], [b]) => direction * compare(a, b));
      table.tBodies[0].append(...[...sorted, ...missing].map(([, row]) => row));
    });
  });
}
