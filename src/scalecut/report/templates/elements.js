// Elements, numbers and places: what all figures of the page need. Text is only set as text.

const MINUS = "\u2212";
const INK = ["#222222"]; // black in light mode, white in dark mode
const PAPER = 680; // pixels across a printed page
const tip = document.querySelector(".tip");
let isPrinting = false;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "colour") {
      element.classList.add("coloured");
      if (INK.includes(value)) element.classList.add("ink");
      element.style.setProperty("--colour", value);
    } else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const html = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const brush = document.createElement("canvas").getContext("2d");
function widthOf(text, size = 13, weight = 400) {
  brush.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
  return brush.measureText(text).width;
}
// The words of a text in lines no wider than `most`.
function wrapped(text, most) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && widthOf(longer, 13, 600) > most) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}
function written(value, digits = 2) {
  const exactly = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return value.toLocaleString("en", { ...exactly, signDisplay: "negative" }).replace("-", MINUS);
}
// Of any number of values: as arguments of one call there may be at most 65,000.
const lowest = (values) => values.reduce((one, other) => Math.min(one, other), Infinity);
const highest = (values) => values.reduce((one, other) => Math.max(one, other), -Infinity);
// Digits after the point that give three significant digits of a range.
const digitsFor = (span) => (span > 0 ? Math.min(20, Math.max(0, 2 - Math.floor(Math.log10(span)))) : 2);
const short = (text, most) => (text.length > most ? "\u2026" + text.slice(1 - most) : text);
const isThere = (value) => value !== null;
const widthFor = (holder) => (isPrinting ? PAPER : Math.max(280, holder.clientWidth));

function steps(low, high, most) {
  const least = (high - low) / most, power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => [
    (first + i) * step, written((first + i) * step, digits),
  ]);
}

// Ascending places moved as little as possible to be `gap` apart: isotonic regression.
function apart(wanted, gap, low, high) {
  const blocks = [];
  wanted.forEach((place, i) => {
    blocks.push({ sum: place - gap * i, n: 1 });
    while (blocks.length > 1 && mean(blocks.at(-2)) > mean(blocks.at(-1))) {
      const { sum, n } = blocks.pop();
      blocks.at(-1).sum += sum;
      blocks.at(-1).n += n;
    }
  });
  const top = Math.max(low, high - gap * (wanted.length - 1));
  return blocks
    .flatMap((block) => Array(block.n).fill(Math.min(Math.max(mean(block), low), top)))
    .map((place, i) => place + gap * i);
}
const mean = (block) => block.sum / block.n;

function showTip(x, y, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  tip.style.left = `${Math.max(4, Math.min(right, innerWidth - width - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - height - 4))}px`;
}
const hideTip = () => (tip.hidden = true);
