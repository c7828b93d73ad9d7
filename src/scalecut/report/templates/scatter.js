// True against predicted measure of one layer, image by image.

const CARDS = 12; // of the largest errors, at first
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5c5c5c"];

function thumb(predictions, image) {
  const uri = predictions.thumbnails[image], box = predictions.boxes[image];
  if (!uri) return html("span", { class: "thumb" }, "no image");
  const inner = html("span", {}, html("img", { src: uri, alt: "" }));
  if (box) {
    const frame = html("span", { class: "box" });
    ["left", "top", "width", "height"].forEach((side, i) => (frame.style[side] = `${100 * box[i]}%`));
    inner.append(frame);
  }
  return html("span", { class: "thumb" }, inner);
}

function rowsOfLayer(predictions, layer, subset) {
  const predicted = predictions.predicted[layer], number = predictions.subsets.indexOf(subset);
  const images = predictions.names.map((_, i) => i)
    .filter((i) => isThere(predicted[i]) && (number < 0 || predictions.subset[i] === number));
  const error = (i) => Math.abs(predicted[i] - predictions.measure[i]);
  return images.sort((one, other) => error(other) - error(one));
}

function said(predictions, layer, image) {
  const digits = digitsFor(highest(predictions.measure) - lowest(predictions.measure));
  const [truth, predicted] = [predictions.measure, predictions.predicted[layer]].map((values) => written(values[image], digits));
  return `${predictions.measureName} ${truth}, predicted ${predicted}`;
}

// The range of the measure, and of all but the most extreme predictions of any layer.
function rangeOf(predictions, images) {
  const all = predictions.predicted.flatMap((row) => images.map((i) => row[i]).filter(isThere));
  all.sort((one, other) => one - other);
  const measure = images.map((i) => predictions.measure[i]);
  const low = Math.min(lowest(measure), all[Math.floor(0.005 * all.length)]);
  const high = Math.max(highest(measure), all[Math.ceil(0.995 * all.length) - 1]);
  return [low - 0.03 * (high - low), high + 0.03 * (high - low)];
}

function drawScatter(holder, predictions, layer, images) {
  const width = Math.min(widthFor(holder), 480), side = width - 58, top = 40;
  if (!images.length) {
    holder.replaceChildren(html("p", { class: "note" }, "No image was held out."));
    return () => {};
  }
  const [low, high] = rangeOf(predictions, images), span = high - low;
  const x = (value) => 50 + (side * (value - low)) / span, y = (value) => top + side - (side * (value - low)) / span;
  const root = svg("g");
  for (const [value, text] of steps(low, high, 6)) {
    root.append(
      svg("line", { class: "grid", x1: 50, x2: 50 + side, y1: y(value), y2: y(value) }),
      svg("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: top + side }),
      svg("text", { class: "small", x: 44, y: y(value) + 4, "text-anchor": "end" }, text),
      svg("text", { class: "small", x: x(value), y: top + side + 16, "text-anchor": "middle" }, text),
    );
  }
  root.append(
    svg("line", { class: "zero", x1: x(low), y1: y(low), x2: x(high), y2: y(high), "stroke-dasharray": "4 4" }),
    svg("text", { class: "small", x: 0, y: 10 }, "predicted"),
    svg("text", { class: "small", x: 50 + side, y: top + side + 34, "text-anchor": "end" }, `true ${predictions.measureName}`),
  );
  const there = [...new Set(images.map((i) => predictions.subset[i]))].sort((one, other) => one - other);
  const colour = (i) => COLOURS[there.length > COLOURS.length ? 0 : there.indexOf(predictions.subset[i])];
  nameSubsets(root, predictions, there, width);
  const inside = (value) => Math.min(Math.max(value, low), high);
  const place = (i) => [x(predictions.measure[i]), y(inside(predictions.predicted[layer][i]))];
  for (const i of [...images].reverse()) {
    const [cx, cy] = place(i), isBeyond = inside(predictions.predicted[layer][i]) !== predictions.predicted[layer][i];
    root.append(svg("circle", { class: isBeyond ? "beyond" : "point", cx, cy, r: 3.5, colour: colour(i) }));
  }
  const ring = svg("circle", { class: "pointed", r: 7, visibility: "hidden" });
  const drawn = svg("svg", {
    viewBox: `0 0 ${width} ${top + side + 40}`, width, height: top + side + 40, tabindex: 0, role: "application",
    "aria-roledescription": "scatter plot", "aria-label": "True against predicted measure; arrow keys move between images",
  }, root, ring);
  const point = (i, isAlone) => {
    const [cx, cy] = place(i);
    ring.setAttribute("cx", cx);
    ring.setAttribute("cy", cy);
    ring.setAttribute("visibility", "visible");
    if (!isAlone) return;
    const frame = drawn.getBoundingClientRect(), scale = frame.width / width;
    const name = html("b", {}, predictions.names[i]);
    showTip(frame.left + cx * scale, frame.top + cy * scale, thumb(predictions, i), name,
      html("div", {}, predictions.subsets[predictions.subset[i]]), html("div", {}, said(predictions, layer, i)));
  };
  followPoints(drawn, images, place, point, width, (number) => enlargeImage(predictions, layer, images, number));
  holder.replaceChildren(drawn);
  return (i) => (i === null ? ring.setAttribute("visibility", "hidden") : point(i, false));
}

function nameSubsets(root, predictions, there, width) {
  let x = 50;
  if (there.length < 2 || there.length > COLOURS.length) return;
  there.forEach((number, i) => {
    const name = short(predictions.subsets[number], 24), wide = widthOf(name) + 28;
    if (x + wide > width) return;
    root.append(svg("g", { colour: COLOURS[i] }, marker("o", x + 4, 23, 4),
      svg("text", { class: "name", x: x + 13, y: 27 }, name)));
    x += wide;
  });
}

function enlargeImage(predictions, layer, images, number) {
  enlarge(images.map((i) => () => [
    thumb(predictions, i), predictions.names[i], predictions.subsets[predictions.subset[i]], said(predictions, layer, i),
  ]), number);
}

// The nearest point under the pointer, or the next one by arrow keys; a click or Enter enlarges it.
function followPoints(drawn, images, place, point, width, open) {
  let at = 0;
  const nearest = (event) => {
    const frame = drawn.getBoundingClientRect(), scale = frame.width / width;
    const here = [(event.clientX - frame.left) / scale, (event.clientY - frame.top) / scale];
    const far = (i) => Math.hypot(place(i)[0] - here[0], place(i)[1] - here[1]);
    const found = images.reduce((one, other) => (far(other) < far(one) ? other : one));
    return far(found) > 16 ? null : found;
  };
  drawn.addEventListener("pointermove", (event) => {
    const found = nearest(event);
    if (found === null) return hideTip();
    at = images.indexOf(found);
    return point(found, true);
  });
  drawn.addEventListener("click", (event) => {
    const found = nearest(event);
    if (found !== null) open(images.indexOf(found));
  });
  drawn.addEventListener("pointerleave", hideTip);
  drawn.addEventListener("focus", () => drawn.matches(":focus-visible") && point(images[at], true));
  drawn.addEventListener("blur", hideTip);
  drawn.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (!step && event.key !== "Enter") return;
    event.preventDefault(); // else Enter would press the button that is focused next
    if (!step) return open(at);
    at = (at + step + images.length) % images.length;
    point(images[at], true);
  });
}

function listLargest(list, more, predictions, layer, images, highlight, most) {
  list.replaceChildren(...images.slice(0, most).map((i, number) => {
    const card = html("button", { class: "card", type: "button" }, thumb(predictions, i),
      html("b", {}, predictions.names[i]), html("i", {}, predictions.subsets[predictions.subset[i]]),
      html("i", {}, said(predictions, layer, i)));
    card.addEventListener("pointerenter", () => highlight(i));
    card.addEventListener("focus", () => highlight(i));
    card.addEventListener("pointerleave", () => highlight(null));
    card.addEventListener("click", () => enlargeImage(predictions, layer, images, number));
    return html("li", { title: predictions.names[i] }, card);
  }));
  more.hidden = images.length <= most;
  more.onclick = () => listLargest(list, more, predictions, layer, images, highlight, most + 2 * CARDS);
}
