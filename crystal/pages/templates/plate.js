"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const cards = data.cards;
const [SCORE, LENGTH, WIDTH, AREA, , OUTSIDE, SHOOT, OUTLINE] = [0, 1, 2, 3, 4, 5, 6, 7];
const VERDICTS = ["crystal", "no", "unsure"];
let open = null; // the card in the viewer
let shown = []; // the cards that pass the filters, in order

// A person's verdicts: in the browser's own store where it has one, else as long as the page is open.
const memory = new Map();
const store = {
  get(card) {
    try { return localStorage.getItem("crystal-verdict-" + card.key) || ""; } catch { return memory.get(card.key) || ""; }
  },
  set(card, verdict) {
    memory.set(card.key, verdict);
    try {
      if (verdict) localStorage.setItem("crystal-verdict-" + card.key, verdict);
      else localStorage.removeItem("crystal-verdict-" + card.key);
    } catch { by("unkept").hidden = false; }
  },
};

function wanted() {
  return {
    score: Number(by("score").value),
    length: Number(by("length").value) || 0,
    count: Number(by("count").value) || 0,
    outside: by("outside") ? by("outside").checked : data.outside,
  };
}

const scale = (card) => card.um || 1;
const unit = (card) => (card.um ? "µm" : "px");
const title = (card) => (card.well ? `${card.well[3]} · ${card.well[2]}` : card.name);
const path = (parts) => parts.map((p) => "M" + p.join(" ") + "Z").join("");

const several = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// What counts in a drop: [index, crystal] of each, best first.
function counts(card, want) {
  const found = [];
  card.crystals.forEach((crystal, index) => {
    if (crystal[SCORE] >= want.score && crystal[LENGTH] * scale(card) >= want.length
        && (want.outside || !crystal[OUTSIDE])) found.push([index, crystal]);
  });
  return found;
}

function recount(card, want) {
  const found = counts(card, want);
  card.number = found.length;
  card.largest = null;
  for (const [, crystal] of found) if (!card.largest || crystal[AREA] > card.largest[AREA]) card.largest = crystal;
  card.best = 0;
  for (const crystal of card.crystals) {
    if (want.outside || !crystal[OUTSIDE]) { card.best = crystal[SCORE]; break; }
  }
  return found;
}

function sentence(card) {
  if (!card.number) return `no crystals (best score ${card.best.toFixed(2)})`;
  const largest = `${Math.round(card.largest[LENGTH] * scale(card))} ${unit(card)}`;
  return `${several(card.number, "crystal")}, score ${card.best.toFixed(2)}, largest ${largest}`;
}

function build(card) {
  const node = by("card").content.firstElementChild.cloneNode(true);
  const [width, height] = card.size;
  node.querySelector("img").src = "data:image/jpeg;base64," + card.picture;
  node.querySelector(".frame").style.aspectRatio = `${width} / ${height}`;
  node.querySelector("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  node.querySelector(".rim").setAttribute("d", path(card.drop));
  const head = node.querySelector("b");
  head.textContent = title(card);
  head.className = head.textContent.length > 24 ? "long" : "";
  const name = node.querySelector("small");
  name.textContent = card.well ? card.name : "";
  node.title = card.name;
  node.addEventListener("click", () => view(card));
  for (const crystal of card.crystals) crystal.path = path(crystal[OUTLINE]);
  card.verdict = store.get(card);
  card.node = node;
  card.lines = node.querySelectorAll(".halo, .line");
  card.hit = node.querySelector(".hit");
  card.said = node.querySelector(".said");
}

function buildMap() {
  const map = by("map");
  if (!cards.some((card) => card.well)) return;
  const [rows, columns] = data.plate;
  const drops = [...new Set(cards.filter((card) => card.well).map((card) => card.well[2]))].sort((a, b) => a - b);
  const places = new Map(cards.filter((card) => card.well).map((card) => [card.well.slice(0, 3).join(), card]));
  map.hidden = false;
  map.style.gridTemplateColumns = `1.3rem repeat(${columns}, minmax(0, 1fr))`;
  const label = (text) => { const node = document.createElement("span"); node.textContent = text; map.append(node); };
  label("");
  for (let column = 1; column <= columns; column++) label(column);
  for (let row = 0; row < rows; row++) {
    label("ABCDEFGHIJKLMNOP"[row]);
    for (let column = 1; column <= columns; column++) {
      const well = document.createElement("div");
      well.className = "well";
      for (const drop of drops) {
        const card = places.get([row, column, drop].join());
        if (!card) continue;
        card.dot = document.createElement("button");
        card.dot.type = "button";
        card.dot.addEventListener("click", () => view(card));
        well.append(card.dot);
      }
      map.append(well);
    }
  }
}

const passes = (card, want) => card.number >= want.count && ({
  all: true, hits: card.number > 0, empty: card.number === 0, open: !card.verdict,
}[by("show").value] ?? card.verdict === by("show").value);

const ORDERS = {
  score: (a, b) => b.best - a.best || b.number - a.number || size(b) - size(a),
  number: (a, b) => b.number - a.number || b.best - a.best,
  largest: (a, b) => size(b) - size(a) || b.best - a.best,
  name: (a, b) => place(a) - place(b) || a.name.localeCompare(b.name, undefined, { numeric: true }),
};
const size = (card) => (card.largest ? card.largest[AREA] * scale(card) ** 2 : 0);
const place = (card) => (card.well ? card.well[0] * 1e4 + card.well[1] * 10 + card.well[2] : 1e9);

// Count anew and show it; `order` also puts the cards in order, which would be restless while the slider moves.
function update(order) {
  const want = wanted();
  let hits = 0, crystals = 0, visible = 0;
  for (const card of cards) {
    const found = recount(card, want);
    const d = found.map(([, crystal]) => crystal.path).join("");
    const hidden = !passes(card, want);
    hits += card.number > 0;
    crystals += card.number;
    visible += !hidden;
    const state = [sentence(card), card.verdict, hidden, d].join();
    if (state === card.state) continue;
    card.state = state;
    card.lines.forEach((line) => line.setAttribute("d", d));
    card.hit.className = card.number ? "hit yes" : "hit none";
    card.hit.textContent = sentence(card);
    card.said.hidden = !card.verdict;
    card.said.textContent = card.verdict;
    card.node.hidden = hidden;
    if (card.dot) {
      card.dot.textContent = card.number || "";
      card.dot.className = [card.number ? "hit" : "", card.node.hidden ? "faded" : "", card.verdict].join(" ");
      card.dot.style.setProperty("--score", `${Math.round(100 * card.best)}%`);
      card.dot.title = `${title(card)}: ${sentence(card)}${card.verdict ? ", my verdict: " + card.verdict : ""}`;
      card.dot.setAttribute("aria-label", card.dot.title);
    }
  }
  if (order) {
    cards.sort(ORDERS[by("sort").value]);
    by("cards").append(...cards.map((card) => card.node));
  }
  shown = cards.filter((card) => !card.node.hidden);
  by("score-shown").textContent = want.score.toFixed(2);
  by("sum").textContent = `${hits} of ${several(cards.length, "drop")} with crystals, ${several(crystals, "crystal")}`
    + (visible < cards.length ? `; ${several(visible, "drop")} shown` : "");
}

function view(card) {
  open = card;
  const [width, height] = card.size, frame = document.querySelector("#stage .frame"), image = frame.querySelector("img");
  frame.style.setProperty("--ratio", width / height);
  frame.style.setProperty("--pixels", `${width}px`);
  frame.querySelector("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
  frame.querySelector(".rim").setAttribute("d", path(card.drop));
  image.src = "data:image/jpeg;base64," + card.picture;
  if (card.shown) { // the original in place of the small picture, where it is still there and the same
    const original = new Image();
    original.onload = () => {
      if (open === card && original.naturalWidth === width && original.naturalHeight === height) image.src = original.src;
    };
    original.src = card.original;
  }
  by("what").textContent = title(card);
  by("file").textContent = card.well ? card.name : "";
  by("original").href = card.original;
  by("overlay").href = card.overlay;
  by("unit").textContent = `Lengths in ${unit(card)}, areas in ${unit(card)}².`;
  drawCrystals(card);
  if (!by("viewer").open) by("viewer").showModal();
}

function drawCrystals(card) {
  const group = document.querySelector("#stage g"), list = by("list"), found = recount(card, wanted());
  const um = scale(card), cross = Math.max(...card.size) / 160;
  group.replaceChildren();
  list.replaceChildren();
  for (const [index, crystal] of found) {
    const row = list.insertRow();
    const numbers = [index + 1, crystal[SCORE].toFixed(2), Math.round(crystal[LENGTH] * um),
      Math.round(crystal[WIDTH] * um), Math.round(crystal[AREA] * um * um)];
    for (const number of numbers) row.insertCell().textContent = number;
    const shapes = [];
    for (const part of crystal[OUTLINE]) {
      const shape = by("shape").content.querySelector("g").cloneNode(true);
      shape.querySelectorAll("polygon").forEach((node) => node.setAttribute("points", part.join(" ")));
      shape.querySelector("title").textContent = `${index + 1}: ${numbers[1]}, ${numbers[2]} ${unit(card)}`;
      shapes.push(shape);
    }
    const choose = (event) => {
      event.stopPropagation();
      document.querySelectorAll(".side .chosen, #stage .chosen").forEach((node) => node.classList.remove("chosen"));
      row.classList.add("chosen");
      row.scrollIntoView({ block: "nearest" });
      shapes.forEach((shape) => shape.lastElementChild.classList.add("chosen"));
    };
    row.addEventListener("click", choose);
    shapes.forEach((shape) => shape.addEventListener("click", choose));
    group.append(...shapes, target(crystal[SHOOT], (x, y) => `M${x - cross} ${y}H${x + cross}M${x} ${y - cross}V${y + cross}`));
  }
  if (card.dispense) {
    const r = cross * 1.2;
    group.append(target(card.dispense, (x, y) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`));
  }
  const hit = by("hit");
  hit.className = card.number ? "yes" : "none";
  hit.textContent = sentence(card);
  const at = shown.indexOf(card);
  by("place").textContent = at < 0 ? "" : `${at + 1} of ${shown.length}`;
  document.querySelectorAll("[data-verdict]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === card.verdict));
  });
}

function target([x, y], shape) {
  const node = by("target").content.querySelector("g").cloneNode(true);
  node.querySelectorAll("path").forEach((line) => line.setAttribute("d", shape(x, y)));
  return node;
}

function step(by_) {
  if (!shown.length) return;
  const at = shown.indexOf(open);
  view(shown[(at + by_ + shown.length) % shown.length]);
}

function judge(verdict) {
  open.verdict = open.verdict === verdict ? "" : verdict;
  store.set(open, open.verdict);
  const order = shown; // a drop that no longer passes the filter stays in the row until the viewer is closed
  update(false);
  shown = order;
  drawCrystals(open);
}

function table() {
  const quote = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : String(value));
  const want = wanted();
  const lines = [["image", "well", "subwell", "verdict", "crystals", "hit_score", "score_from", "length_from"]];
  for (const card of [...cards].sort(ORDERS.name)) {
    const [well, drop] = card.well ? [card.well[3], card.well[2]] : ["", ""];
    lines.push([card.name, well, drop, card.verdict, card.number, card.best.toFixed(4), want.score, want.length]);
  }
  return lines.map((line) => line.map((value) => quote(String(value))).join(",")).join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "verdicts.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function outlines(on) {
  by("outlines").checked = by("lines").checked = on;
  document.body.classList.toggle("off", !on);
}

function points(on) {
  by("points").checked = on;
  by("stage").classList.toggle("pointless", !on);
}

const KEYS = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), PageUp: () => step(-1), PageDown: () => step(1),
  c: () => judge("crystal"), n: () => judge("no"), u: () => judge("unsure"),
  o: () => outlines(!by("lines").checked), p: () => points(!by("points").checked),
  f: () => by("stage").classList.toggle("full"),
};
document.addEventListener("keydown", (event) => {
  if (!open || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

cards.forEach(build);
buildMap();
if (by("outside")) by("outside").checked = data.outside;
for (const id of ["score", "length", "count"]) by(id).addEventListener("input", () => update(false));
for (const id of ["score", "length", "count", "show", "sort", "outside"]) {
  if (by(id)) by(id).addEventListener("change", () => update(true));
}
by("outlines").addEventListener("change", (event) => outlines(event.target.checked));
by("lines").addEventListener("change", (event) => outlines(event.target.checked));
by("points").addEventListener("change", (event) => points(event.target.checked));
by("export").addEventListener("click", save);
by("before").addEventListener("click", () => step(-1));
by("after").addEventListener("click", () => step(1));
by("close").addEventListener("click", () => by("viewer").close());
by("viewer").addEventListener("close", () => { const card = open; open = null; update(true); card.node.focus(); });
by("stage").addEventListener("click", () => by("stage").classList.toggle("full"));
document.querySelectorAll("[data-verdict]").forEach((button) => {
  button.addEventListener("click", () => judge(button.dataset.verdict));
});
points(false);
update(true);
