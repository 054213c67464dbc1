// A click, or Enter, on a head sorts the table's rows by it; again, the other way round. Cells without a value stay last.
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };

  const sortBy = (column, direction) => {
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * compare(x, y);
    });
    body.append(...rows);
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", direction);
  };

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const isNumber = body.rows[0]?.cells[column].classList.contains("number");
      const first = isNumber ? "descending" : "ascending";
      const other = isNumber ? "ascending" : "descending";
      sortBy(column, head.getAttribute("aria-sort") === first ? other : first);
    });
  });
}
