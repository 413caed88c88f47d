"use strict";
{
  const STEP = 200; // rows that are added when the reader comes to the end of the table
  const data = JSON.parse(document.getElementById("data").textContent);
  const body = document.getElementById("rows");
  const more = document.getElementById("more");
  const found = document.getElementById("found");
  const search = document.getElementById("search");
  const headers = [...document.querySelectorAll("th[data-key]")];
  const number = new Intl.NumberFormat("en");
  const folded = data.tokens.map((token) => token.toLowerCase());
  const collator = new Intl.Collator("zh");
  const columns = {
    rank: (a, b) => a - b,
    token: (a, b) => collator.compare(data.tokens[a], data.tokens[b]) || a - b,
    count: (a, b) => data.counts[a] - data.counts[b] || b - a,
    documents: (a, b) => data.documents[a] - data.documents[b] || b - a,
  };
  let order = { key: "rank", down: false };
  let rows = [];
  let shown = 0;

  const cell = (text, name = "td") => {
    const element = document.createElement(name);
    element.textContent = text;
    if (name === "td") element.className = "number";
    else element.scope = "row";
    return element;
  };

  const row = (index) => {
    const element = document.createElement("tr");
    const token = cell(data.tokens[index], "th");
    token.style.setProperty("--share", data.counts[index] / data.counts[0]);
    const share = ((100 * data.counts[index]) / data.total).toFixed(3) + "%";
    element.append(cell(number.format(index + 1)), token);
    element.append(cell(number.format(data.counts[index])), cell(share));
    element.lastChild.classList.add("share");
    if (data.documents) element.append(cell(number.format(data.documents[index])));
    return element;
  };

  const extend = () => {
    body.append(...rows.slice(shown, shown + STEP).map(row));
    shown = Math.min(shown + STEP, rows.length);
    more.textContent = shown < rows.length ? `${number.format(rows.length - shown)} more` : "";
  };

  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    rows = [...data.tokens.keys()].filter((index) => folded[index].includes(wanted));
    rows.sort(columns[order.key]);
    if (order.down) rows.reverse();
    body.replaceChildren();
    shown = 0;
    extend();
    found.textContent = wanted ? `${number.format(rows.length)} found` : "";
    for (const header of headers) {
      if (header.dataset.key === order.key && !header.classList.contains("share")) {
        header.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      } else header.removeAttribute("aria-sort");
    }
  };

  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const key = header.dataset.key;
      const first = key === "count" || key === "documents"; // the largest are what one looks for
      order = { key, down: order.key === key ? !order.down : first };
      update();
    });
  }
  search.addEventListener("input", update);
  new IntersectionObserver(
    (entries) => entries.some((entry) => entry.isIntersecting) && shown < rows.length && extend(),
    { rootMargin: "600px" },
  ).observe(more);
  update();
}
