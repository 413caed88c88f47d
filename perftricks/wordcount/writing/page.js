"use strict";
{
  const AROUND = 12; // rows that are drawn above and below those in sight
  const TALLEST = 15_000_000; // pixels; browsers cut off elements that are taller
  const data = JSON.parse(document.getElementById("data").textContent);
  const size = data.tokens.length;
  const table = document.getElementById("table");
  const view = document.getElementById("view");
  const body = document.getElementById("rows");
  const found = document.getElementById("found");
  const search = document.getElementById("search");
  const headers = [...document.querySelectorAll("th[data-key]")];
  const number = new Intl.NumberFormat("en");
  let order = { key: "rank", down: false };
  let rows = []; // numbers of the rows that are shown, in their order
  let height = 0, head = 0; // pixels of a row, of the header

  // Each is made when it is first wanted, and kept: all rows, the smallest first.
  const once = (make) => {
    let made;
    return () => (made ??= make());
  };
  const folded = once(() => data.tokens.map((token) => token.toLowerCase()));
  const byRank = once(() => Int32Array.from({ length: size }, (_, index) => index));
  const sorted = {
    rank: byRank,
    count: once(() => byRank().toReversed?.() ?? byRank().slice().reverse()), // the first is largest
    documents: once(() => byRank().slice().sort(
      (a, b) => data.documents[a] - data.documents[b] || b - a)),
    token: once(() => {
      // To collate whole tokens takes seconds for a large table: characters are collated, once each.
      const compare = new Intl.Collator("zh", { sensitivity: "base" }).compare;
      const characters = [...new Set(data.tokens.join(""))].sort(compare);
      const places = new Map();
      let place = 1;
      characters.forEach((character, index) => {
        if (index && compare(characters[index - 1], character)) place += 1;
        places.set(character, String.fromCharCode(Math.min(place, 0xffff)));
      });
      // Strings that end in the number of their row: sorted without a function, which is fastest.
      const keys = data.tokens.map((token, index) => {
        let key = "";
        for (const character of token) key += places.get(character);
        return key + String.fromCharCode(0, index >>> 15, index & 0x7fff);
      });
      return Int32Array.from(keys.sort(), (key) => (
        (key.charCodeAt(key.length - 2) << 15) | key.charCodeAt(key.length - 1)));
    }),
  };

  const cell = (text, kind = "number", name = "td") => {
    const element = document.createElement(name);
    element.textContent = text;
    element.className = kind;
    return element;
  };

  const row = (index, place) => {
    const element = document.createElement("tr");
    element.ariaRowIndex = place + 2; // the header is the first
    const token = cell(data.tokens[index], "token", "th");
    token.scope = "row";
    token.title = data.tokens[index];
    token.style.setProperty("--share", data.counts[index] / data.counts[0]);
    const share = ((100 * data.counts[index]) / data.total).toFixed(3) + "%";
    element.append(cell(number.format(index + 1)), token);
    element.append(cell(number.format(data.counts[index])), cell(share, "number share"));
    if (data.documents) element.append(cell(number.format(data.documents[index])));
    return element;
  };

  const space = (pixels) => {
    const element = document.createElement("tr");
    element.className = "space";
    element.ariaHidden = "true";
    element.style.height = `${pixels}px`;
    return element;
  };

  // Only the rows in sight are there; what is above and below them is empty space.
  const draw = () => {
    const usable = view.clientHeight - head;
    const whole = Math.min(rows.length * height, TALLEST);
    const limit = Math.max(whole - usable, 0);
    const top = Math.min(Math.max(view.scrollTop, 0), limit);
    const place = limit && (top / limit) * (rows.length - usable / height); // of the row on top
    const first = Math.max(Math.floor(place) - AROUND, 0);
    const last = Math.min(Math.ceil(place + usable / height) + AROUND, rows.length);
    const above = Math.max(top - (place - first) * height, 0);
    const drawn = Array.from(rows.slice(first, last), (index, n) => row(index, first + n));
    const below = Math.max(whole - above - drawn.length * height, 0);
    body.replaceChildren(space(above), ...drawn, space(below));
  };

  const update = () => {
    const wanted = search.value.trim().toLowerCase();
    const all = sorted[order.key]();
    const texts = wanted && folded();
    rows = wanted ? all.filter((index) => texts[index].includes(wanted)) : all.slice();
    if (order.down) rows.reverse();
    table.ariaRowCount = rows.length + 1;
    found.textContent = wanted ? `${number.format(rows.length)} found` : "";
    for (const header of headers) {
      if (header.dataset.key === order.key && !header.classList.contains("share")) {
        header.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      } else header.removeAttribute("aria-sort");
    }
    view.scrollTop = 0;
    draw();
  };

  const measure = () => {
    if (size === 0) return;
    body.replaceChildren(row(0, 0));
    height = body.firstChild.getBoundingClientRect().height;
    head = table.tHead.getBoundingClientRect().height;
    draw();
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
  let waiting = false;
  view.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }, { passive: true });
  measure();
  update();
  addEventListener("resize", measure);
}
