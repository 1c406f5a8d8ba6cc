// Sorts a table by a column when its head is clicked, or Enter or Space is pressed on it.
for (const head of document.querySelectorAll("table.sortable thead th")) {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const known = text => text !== "" && !Number.isNaN(Number(text));
  const compare = (a, b, sign) => known(a) !== known(b) ? known(b) - known(a)  // what is unknown stands last
    : sign * (known(a) ? a - b : a.localeCompare(b, "en", { numeric: true }));
  const sort = () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b), down ? -1 : 1));
    body.append(...rows);
  };
  head.tabIndex = 0;
  head.title = "Sort by this column";
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    sort();
  });
}
