// The page: which subset, regression and layer are shown; saving and sorting.

const runs = JSON.parse(document.getElementById("data").textContent).runs;

// --- saving, sorting -----------------------------------------------------------------------

function save(name, kind, text) {
  const link = html("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: kind })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const cell = (value) => (value === null ? "" : /[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
const csv = (rows) => rows.map((row) => row.map(cell).join(",") + "\n").join("");

const KEPT = [ // what a saved figure keeps of the style sheet
  "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin",
  "font-size", "font-weight", "font-family", "paint-order",
];

// The drawing as a file of its own, in the colours of the light page.
function standalone(drawn) {
  document.documentElement.classList.add("light");
  const copy = drawn.cloneNode(true), from = [drawn, ...drawn.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((element, i) => {
    const style = getComputedStyle(from[i]);
    for (const name of KEPT) element.setAttribute(name, style.getPropertyValue(name));
    element.removeAttribute("class");
    element.removeAttribute("style");
  });
  copy.querySelectorAll("*").forEach((element, i) => from[i + 1].classList.contains("hit") && element.remove());
  copy.prepend(svg("rect", { width: "100%", height: "100%", fill: "#ffffff" }));
  document.documentElement.classList.remove("light");
  return new XMLSerializer().serializeToString(copy);
}

function sortBy(table, column, head) {
  const isUp = head.getAttribute("aria-sort") !== "ascending";
  for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  const key = (row) => {
    const { dataset, textContent } = row.cells[column];
    if (!("key" in dataset)) return textContent;
    return dataset.key === "" ? null : Number(dataset.key);
  };
  const order = (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    const sign = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    return isUp ? sign : -sign;
  };
  for (const row of [...table.tBodies[0].rows].sort(order)) table.tBodies[0].append(row);
}

// --- the page ------------------------------------------------------------------------------

const subsets = document.getElementById("subset"), regressors = document.getElementById("regressor");
const articles = [...document.querySelectorAll("[data-run]")];
const chosen = runs.map(() => null); // the layer chosen by hand; the peak until then

// What is chosen, or else the first curve of the run.
const keyOf = (run) => (subsets && subsets.value in run.curves ? subsets.value : Object.keys(run.curves)[0]);

function layerOf(run, number) {
  if (chosen[number] !== null) return chosen[number];
  return Math.max(0, run.layers.indexOf(run.peaks[keyOf(run)] ?? run.peaks.mean));
}

function drawRun(article, number) {
  const run = runs[number], layer = run.layers.length && layerOf(run, number);
  const choose = (place) => {
    chosen[number] = place;
    hideTip();
    drawRun(article, number);
  };
  const figures = [...article.querySelectorAll("figure")]; // names of folders are no selectors
  const holder = (name) => figures.find((figure) => figure.dataset.figure === name)?.querySelector(".drawn");
  if (holder("curve")) {
    const only = regressors?.value;
    drawChart(holder("curve"), run.curves[keyOf(run)], { only, least: 290, ...(run.predictions && { chosen: layer, choose }) });
  }
  for (const [name, drawing] of Object.entries(run.figures)) drawChart(holder(name), drawing);
  if (run.predictions) drawLayer(article, run, layer, choose);
}

function drawLayer(article, run, layer, choose) {
  const { predictions } = run, select = article.querySelector(".choose-layer");
  select.value = layer;
  select.onchange = () => choose(Number(select.value));
  const images = rowsOfLayer(predictions, layer, keyOf(run));
  const note = article.querySelector(".said");
  const all = predictions.names.length < predictions.of ? `${predictions.names.length} of ${predictions.of} images are in this page, including the largest errors. ` : "";
  note.textContent = `${run.curves[keyOf(run)].places[layer]}: ${images.length} images, predicted by ${predictions.by}. ${all}`;
  const figure = article.querySelector('[data-figure="predictions"] .drawn');
  const highlight = drawScatter(figure, predictions, layer, images);
  listLargest(article.querySelector(".cards"), article.querySelector(".more"), predictions, layer, images, highlight, CARDS);
}

function drawAll() {
  articles.forEach(drawRun);
  if (!subsets) return;
  for (const row of document.querySelectorAll("tr[data-subset]")) {
    const { subset, regressor } = row.dataset;
    row.hidden = subset !== subsets.value || (regressor && regressors.value && regressor !== regressors.value);
  }
}

function rowsOf(run, number, name) {
  if (name === "curve") return chartRows(run.curves[keyOf(run)], regressors?.value);
  if (name !== "predictions") return chartRows(run.figures[name], null);
  const layer = layerOf(run, number), { predictions } = run;
  return [
    ["image", "subset", "layer", "measure", "predicted"],
    ...rowsOfLayer(predictions, layer, keyOf(run)).map((i) => [
      predictions.names[i], predictions.subsets[predictions.subset[i]], run.layers[layer],
      predictions.measure[i], predictions.predicted[layer][i],
    ]),
  ];
}

articles.forEach((article, number) => article.querySelectorAll("figure").forEach((figure) => {
  const run = runs[number], { figure: name } = figure.dataset;
  const file = `${run.title}-${name}`.replace(/[^\w.-]+/g, "_");
  figure.querySelector('[data-save="svg"]').onclick = () => save(`${file}.svg`, "image/svg+xml", standalone(figure.querySelector("svg")));
  figure.querySelector('[data-save="csv"]').onclick = () => save(`${file}.csv`, "text/csv", csv(rowsOf(run, number, name)));
}));
document.querySelectorAll("table").forEach((table) => {
  if (table.tHead) [...table.tHead.rows[0].cells].forEach((head, column) => (head.querySelector("button").onclick = () => sortBy(table, column, head)));
});
if (subsets) for (const each of [subsets, regressors]) each.onchange = drawAll;
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawAll();
});
addEventListener("scroll", hideTip, { passive: true });
for (const [event, state] of [["beforeprint", true], ["afterprint", false]]) {
  addEventListener(event, () => {
    isPrinting = state;
    drawAll();
  });
}
drawAll();
