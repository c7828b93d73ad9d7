// Panels of lines over named places, from the same description as the image files (page.py).

const DASHES = { "-": null, "--": "7 4", "-.": "8 3 2 3", ":": "2 3" };

function marker(kind, x, y, r) {
  const of = (d) => svg("path", { class: "mark", d });
  const shapes = {
    s: () => of(`M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`),
    "^": () => of(`M${x} ${y - r * 1.2}l${r * 1.2} ${r * 2.1}h${-r * 2.4}z`),
    v: () => of(`M${x} ${y + r * 1.2}l${r * 1.2} ${-r * 2.1}h${-r * 2.4}z`),
    D: () => of(`M${x} ${y - r * 1.3}l${r * 1.3} ${r * 1.3}l${-r * 1.3} ${r * 1.3}l${-r * 1.3} ${-r * 1.3}z`),
  };
  return (shapes[kind] || (() => svg("circle", { class: "mark", cx: x, cy: y, r })))();
}

function limits(panel) {
  const ends = panel.lines.flatMap((line) => [...line.values, ...(line.band ? [...line.low, ...line.high] : [])]).filter(isThere);
  const floor = panel.floor ?? -Infinity;
  const low = Math.max(floor, Math.min(panel.bottom ?? Infinity, lowest(ends)));
  const high = Math.max(panel.top ?? -Infinity, highest(ends));
  return { floor, low: low - 0.05 * (high - low || 1), high };
}

// Runs of adjacent places that have a value, as lists of places.
function stretches(values) {
  const found = [[]];
  values.forEach((value, i) => (isThere(value) ? found.at(-1).push(i) : found.push([])));
  return found.filter((each) => each.length);
}

function drawChart(holder, drawing, { only = null, chosen = null, choose = null, least = 150 } = {}) {
  const panels = drawing.panels.filter((panel) => !only || panel.title === only);
  const width = widthFor(holder), count = drawing.places.length;
  const named = panels.flatMap((panel) => [
    ...panel.lines.map((line) => line.label), ...panel.named.map(([, name]) => name),
  ]);
  const right = Math.min(0.44 * width, 18 + Math.max(0, ...named.map((name) => widthOf(name))));
  const names = drawing.places.map((place) => short(place, width < 520 ? 16 : 25));
  const widest = Math.max(...names.map((name) => widthOf(name, 11.5)));
  const isSlanted = widest + 8 > (drawing.every * (width - 46 - right)) / count;
  const left = Math.max(46, isSlanted ? widest * Math.SQRT1_2 : 0);
  const space = { left, right, count, step: (width - left - right) / count, end: width - right };
  space.at = (place) => space.left + (place + 0.5) * space.step;
  const root = svg("g", { class: choose ? "choosable" : null });
  let y = 4;
  const tops = panels.map((panel) => (y = drawPanel(root, panel, space, y, least, width < 520)) && y);
  const bottom = tops.at(-1) ?? y;
  const ends = drawTicks(root, names, drawing, space, bottom, isSlanted && widest);
  if (chosen !== null) {
    root.prepend(svg("rect", {
      class: "chosen", x: space.at(chosen) - space.step / 2, y: 4, width: space.step, height: bottom - 4,
    }));
  }
  drawing.places.forEach((place, i) => {
    const hit = svg("rect", {
      class: "hit", x: space.at(i) - space.step / 2, y: 4, width: space.step, height: bottom - 4,
    });
    hit.addEventListener("pointermove", (event) => showTip(event.clientX, event.clientY, ...valuesAt(drawing, panels, i)));
    hit.addEventListener("pointerleave", hideTip);
    if (choose) hit.addEventListener("click", () => choose(i));
    root.append(hit);
  });
  holder.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${ends}`, width, height: ends }, root));
}

function valuesAt(drawing, panels, place) {
  const rows = panels.flatMap((panel) => {
    const { low, high } = limits(panel), said = (value) => written(value, digitsFor(high - low));
    return [
      ...(panels.length > 1 ? [html("tr", {}, html("td", { colspan: 2 }, panel.title))] : []),
      ...panel.lines.filter((line) => isThere(line.values[place])).map((line) => {
        const band = isThere(line.low[place]) ? ` (${said(line.low[place])} to ${said(line.high[place])})` : "";
        return html("tr", {}, html("td", {}, line.label), html("td", {}, said(line.values[place]) + band));
      }),
    ];
  });
  return [html("b", {}, drawing.places[place]), html("table", {}, ...rows)];
}

// One panel from `start` down; returns where it ends.
function drawPanel(root, panel, space, start, least, isNarrow) {
  const { floor, low, high } = limits(panel);
  const marks = placedMarks(panel, space);
  const rows = Math.max(0, ...marks.map((mark) => mark.row + 1));
  const beneath = 8 + (panel.numbers ? 18 : 0) + (panel.peak ? 20 : 0); // the marks
  const title = wrapped(panel.title, space.end + space.right);
  start += 16 * (title.length - 1);
  const top = start + 36 + 21 * rows + beneath;
  const height = Math.max(isNarrow ? 0.65 * least : least, panel.height * (isNarrow ? 1.1 : 1.35));
  const up = (value) => top + height * (1 - (value - low) / (high - low));
  root.append(
    ...title.map((line, i) => svg("text", { class: "title", x: 0, y: start + 14 - 16 * (title.length - 1 - i) }, line)),
    svg("text", { class: "small", x: 0, y: start + 30 }, panel.label),
  );
  for (const [value, text] of steps(low, high, isNarrow ? 5 : 7)) {
    root.append(
      svg("line", { class: "grid", x1: space.left, x2: space.end, y1: up(value), y2: up(value) }),
      svg("text", { class: "small", x: space.left - 6, y: up(value) + 4, "text-anchor": "end" }, text),
    );
  }
  for (const value of [0, ...panel.named.map(([each]) => each)]) {
    if (value >= low && value <= high) {
      const dash = value ? "2 3" : null;
      root.append(svg("line", {
        class: "zero", x1: space.left, x2: space.end, y1: up(value), y2: up(value), "stroke-dasharray": dash,
      }));
    }
  }
  drawMarks(root, marks, space, top - beneath, top + height);
  if (panel.numbers) drawNumbers(root, panel.numbers, space, top - 8);
  [...panel.lines].reverse().forEach((line) => drawLine(root, line, space, up, floor));
  if (panel.peak) drawPeak(root, panel, space, up);
  nameLines(root, panel, space, up, floor, top, top + height);
  return drawStrip(root, panel, space, top + height, floor) + 14;
}

function drawLine(root, line, space, up, floor) {
  const group = svg("g", { colour: line.colour });
  const visible = line.values.map((value) => (isThere(value) && value >= floor ? value : null));
  const edge = (value) => up(Math.max(value, floor));
  if (line.band) {
    const has = line.values.map((value, i) => (isThere(line.low[i]) && isThere(line.high[i]) && line.high[i] >= floor ? value : null));
    for (const places of line.dash ? stretches(has) : has.flatMap((value, i) => (value === null ? [] : [[i]]))) {
      const above = places.map((i) => `${space.at(i)} ${edge(line.high[i])}`);
      const below = places.map((i) => `${space.at(i)} ${edge(line.low[i])}`).reverse();
      const d = `M${[...above, ...below].join("L")}z`;
      group.append(svg("path", line.dash
        ? { class: "band", d, "fill-opacity": line.band }
        : { class: "line", d, "stroke-width": line.width, "stroke-opacity": line.band }));
    }
  }
  for (const places of line.dash ? stretches(visible) : []) {
    let d = "M" + places.map((i) => `${space.at(i)} ${up(visible[i])}`).join("L");
    if (line.isLevel) d = `M${space.left} ${up(visible[0])}H${space.end}`;
    group.append(svg("path", {
      class: "line", d, "stroke-width": line.width, "stroke-dasharray": DASHES[line.dash] ?? null,
    }));
  }
  const isDense = space.step < 11;
  stretches(visible).forEach((places) => places.forEach((i) => {
    const isMarked = line.marked ? line.marked.includes(i) : !isDense || !line.dash || places.length === 1;
    if (line.marker && isMarked) group.append(marker(line.marker, space.at(i), up(visible[i]), 3));
  }));
  root.append(group);
}

function nameLines(root, panel, space, up, floor, top, bottom) {
  const ends = panel.named.map(([value, name]) => ({ y: up(value), x: space.end, name, colour: "#5c5c5c" }));
  for (const line of panel.lines) {
    const last = line.values.findLastIndex(isThere);
    if (last >= 0 && line.values[last] >= floor) {
      const x = line.isLevel ? space.end : space.at(last);
      ends.push({ y: up(line.values[last]), x, name: line.label, colour: line.colour });
    }
  }
  ends.sort((one, other) => one.y - other.y);
  const places = apart(ends.map((end) => end.y), 16, top, bottom);
  const most = (name) => short(name, Math.max(8, Math.floor(((space.right - 16) / Math.max(1, widthOf(name))) * name.length)));
  ends.forEach((end, i) => {
    root.append(svg("g", { colour: end.colour },
      svg("path", { class: "leader", d: `M${end.x + 4} ${end.y}L${space.end + 10} ${places[i]}` }),
      svg("text", { class: "name", x: space.end + 13, y: places[i] + 4 }, most(end.name)),
    ));
  });
}

// Below the floor: one row per line, with a mark at each place and its value where it fits.
function drawStrip(root, panel, space, top, floor) {
  const low = panel.lines.filter((line) => line.values.some((value) => isThere(value) && value < floor));
  if (!low.length) return top + 6;
  const height = 22 * low.length;
  root.append(
    svg("rect", { class: "strip", x: space.left, y: top + 4, width: space.end - space.left, height }),
    svg("text", { class: "small", x: space.left - 6, y: top + 8 + height / 2, "text-anchor": "end" }, `< ${written(floor, 0)}`),
  );
  low.forEach((line, row) => {
    const y = top + 4 + 22 * row, group = svg("g", { colour: line.colour });
    let last = -Infinity;
    const places = line.values.map((value, i) => [value, i]).filter(([value]) => isThere(value) && value < floor);
    for (const [value, i] of line.isLevel ? places.slice(0, 1) : places) {
      group.append(marker("v", space.at(i), y + 6, 3));
      const text = value < -9999 ? value.toExponential(0).replace("+", "").replaceAll("-", MINUS) : written(value, value < -9.95 ? 0 : 1);
      const half = widthOf(text, 11.5) / 2, x = Math.min(Math.max(space.at(i), space.left + half), space.end - half);
      if (x - half > last) {
        group.append(svg("text", { class: "small", x, y: y + 20, "text-anchor": "middle" }, text));
        last = x + half + 6;
      }
    }
    group.append(svg("text", { class: "name", x: space.end + 13, y: y + 15 }, line.label));
    root.append(group);
  });
  return top + 10 + height;
}

// The row of each mark, counted from below; marks in one row do not touch.
function placedMarks(panel, space) {
  const ends = [];
  return [...panel.marks].sort((one, other) => one.spans[0][0] - other.spans[0][0]).map((mark) => {
    const longest = mark.spans.reduce((one, other) => (other[1] - other[0] > one[1] - one[0] ? other : one));
    const half = widthOf(mark.name, 12) / 2, centre = space.at(mark.at ?? (longest[0] + longest[1]) / 2);
    const middle = Math.min(Math.max(centre, space.left + half), space.end + space.right - half - 2);
    const start = Math.min(middle - half, space.at(mark.spans[0][0]));
    let row = ends.findIndex((end) => end + 8 <= start);
    if (row < 0) row = ends.length;
    ends[row] = Math.max(middle + half, space.at(mark.spans.at(-1)[1]));
    return { ...mark, row, middle };
  });
}

function drawMarks(root, marks, space, base, bottom) {
  for (const mark of marks) {
    const y = base - 21 * mark.row, group = svg("g", { colour: mark.colour });
    for (const [start, end] of mark.spans) {
      const x = space.at(start), width = space.at(end) - x;
      if (mark.is_shaded) group.append(svg("rect", { class: "band", x, y, width, height: bottom - y, "fill-opacity": 0.1 }));
      group.append(svg("rect", { class: "mark", x, y: y - 2, width, height: 4 }));
    }
    if (mark.at !== null) {
      const x = space.at(mark.at);
      group.append(svg("path", { class: "line", d: `M${x} ${y}V${bottom}`, "stroke-dasharray": "4 3" }));
    }
    group.append(svg("text", { class: "name small", x: mark.middle, y: y - 5, "text-anchor": "middle" }, mark.name));
    root.append(group);
  }
}

function drawNumbers(root, [name, texts], space, y) {
  const widest = Math.max(...texts.map((text) => widthOf(text, 11.5))) + 6;
  const every = Math.max(1, Math.ceil(widest / space.step));
  root.append(svg("text", { class: "small", x: space.left - 6, y, "text-anchor": "end" }, name));
  texts.forEach((text, i) => {
    if ((texts.length - 1 - i) % every === 0) root.append(svg("text", { class: "small", x: space.at(i), y, "text-anchor": "middle" }, text));
  });
}

function drawPeak(root, panel, space, up) {
  const { line: number, at, text } = panel.peak, line = panel.lines[number];
  const most = space.end + space.right, centre = space.at(at);
  const said = widthOf(text, 13, 600) < most ? text : text.split(", ").at(-1); // without the layer
  const half = widthOf(said, 13, 600) / 2, x = Math.min(Math.max(centre, half), most - half);
  const high = Math.max(line.values[at], (line.band && line.high[at]) || -Infinity);
  const dot = marker("o", centre, up(line.values[at]), 6);
  dot.classList.add("ring");
  root.append(svg("g", { colour: line.colour }, dot,
    svg("text", { class: "name halo", x, y: up(high) - 9, "text-anchor": "middle" }, said)));
}

// Names of the places, horizontal where they fit, else slanted and every k-th; returns where they end.
function drawTicks(root, names, { axisName, every: least }, space, y, slantedWidth) {
  const every = least * (slantedWidth ? Math.max(1, Math.ceil(15 / (least * space.step))) : 1);
  names.forEach((name, i) => {
    if ((names.length - 1 - i) % every) return;
    const x = space.at(i), slant = `rotate(-45 ${x} ${y + 8})`;
    const placed = slantedWidth
      ? { y: y + 8, "text-anchor": "end", transform: slant }
      : { y: y + 12, "text-anchor": "middle" };
    root.append(
      svg("line", { class: "zero", x1: x, x2: x, y1: y - 8, y2: y - 3 }),
      svg("text", { class: "small", x, ...placed }, name),
    );
  });
  const end = y + 20 + slantedWidth * Math.SQRT1_2;
  if (!axisName) return end;
  root.append(svg("text", { class: "small", x: space.left, y: end + 8 }, axisName));
  return end + 16;
}

const chartRows = (drawing, only) => [
  ["panel", "axis", "line", "place", "value", "low", "high"],
  ...drawing.panels.filter((panel) => !only || panel.title === only).flatMap((panel) =>
    panel.lines.flatMap((line) => drawing.places.map((place, i) => [
      panel.title, panel.label, line.label, place, line.values[i], line.low[i], line.high[i],
    ]))),
];
