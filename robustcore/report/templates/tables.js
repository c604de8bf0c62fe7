// Without this the page reads the same; with it a table is sorted by a click on its head, and copied.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const number = (text) => Number(text.replace("inf", "Infinity"));
      const compare = (one, other) => {
        const [a, b] = [value(one), value(other)], [x, y] = [number(a), number(b)];
        if (isNaN(x) && isNaN(y)) return a.localeCompare(b);
        return isNaN(x) - isNaN(y) || (x < y ? -1 : x > y ? 1 : 0);
      };
      const rows = [...body.rows].sort((a, b) => (rising ? 1 : -1) * compare(a, b));
      body.append(...rows);
    });
  });
}
for (const part of document.querySelectorAll("details.csv")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy CSV";
  button.addEventListener("click", (event) => {
    event.preventDefault();
    const text = part.querySelector("pre").textContent;
    const done = () => { button.textContent = "Copied"; };
    const byHand = () => {
      part.open = true;
      getSelection().selectAllChildren(part.querySelector("pre"));
      if (document.execCommand("copy")) done();
    };
    // a page read from a file has no clipboard of its own in some browsers
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand); else byHand();
  });
  part.querySelector("summary").append(button);
}
