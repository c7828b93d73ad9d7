// An image enlarged, with what is said of it; arrow keys go to the others, Escape closes.

const LARGEST = 4; // times its stored size
const viewer = document.querySelector(".viewer");
let enlarged = [], place = 0;

// `items` give the image and the lines below it, the name first; made as they are shown.
function enlarge(items, number) {
  [enlarged, place] = [items, number];
  hideTip();
  showEnlarged();
  if (!viewer.open) viewer.showModal();
}

function showEnlarged() {
  const [shown, name, ...lines] = enlarged[place]();
  viewer.querySelector(".enlarged").replaceChildren(shown);
  viewer.querySelector("#enlarged").textContent = name;
  viewer.querySelector(".note").replaceChildren(...lines.map((line) => html("div", {}, line)));
  viewer.querySelector(".at").textContent = enlarged.length > 1 ? `${place + 1} of ${enlarged.length}` : "";
  for (const button of viewer.querySelectorAll("[data-step]")) button.hidden = enlarged.length < 2;
  const image = shown.matches("img") ? shown : shown.querySelector("img");
  if (image) image.decode().then(() => fitEnlarged(image), () => {});
}

// As large as the window allows, but not many times its stored size.
function fitEnlarged(image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(LARGEST, (innerWidth - 80) / width, (innerHeight - 220) / height);
  image.style.width = `${Math.round(width * scale)}px`;
  image.style.height = `${Math.round(height * scale)}px`;
}

function stepEnlarged(step) {
  place = (place + step + enlarged.length) % enlarged.length;
  showEnlarged();
}

viewer.querySelector(".close").onclick = () => viewer.close();
viewer.querySelectorAll("[data-step]").forEach((button) => (button.onclick = () => stepEnlarged(Number(button.dataset.step))));
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && enlarged.length > 1) stepEnlarged(step);
});
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close()); // outside of it

document.querySelectorAll(".images, .sheet").forEach((list) => {
  const buttons = [...list.querySelectorAll("button")];
  const items = buttons.map((button) => () => {
    const image = button.querySelector("img"), said = [...button.querySelectorAll("b, i")].map((each) => each.textContent);
    return [html("img", { src: image.src, alt: image.alt }), said[0] ?? image.alt, ...said.slice(1)];
  });
  buttons.forEach((button, i) => (button.onclick = () => enlarge(items, i)));
});
