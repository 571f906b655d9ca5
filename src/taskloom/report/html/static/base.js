// What all parts use: the page's data, one tip for everything that is pointed at, the colours, the current section.
const root = document.documentElement;
root.classList.add("scripted");
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const live = document.getElementById("live");

function number(value) {
  if (value === null || value === undefined || value === "" || !Number.isFinite(+value)) return "–";
  const size = Math.abs(value);
  const text = size === 0 || (size >= 0.001 && size < 100) ? (+value).toFixed(3) : (+value).toPrecision(4);
  return text.replace("-", "−");
}

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + 16 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 16}px`;
}

function hideTip() {
  tip.hidden = true;
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
addEventListener("scroll", hideTip, { passive: true });

// Auto, light, dark. A page that is opened from a disk may have no storage.
const themes = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");

function applyTheme(theme) {
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const name = theme === "auto" ? "as the system" : theme;
  themeButton.setAttribute("aria-label", `Colours: ${name}`);
  themeButton.querySelector("span").textContent = theme[0].toUpperCase() + theme.slice(1);
}

let theme = "auto";
try {
  theme = themes.includes(localStorage.getItem("taskloom-theme")) ? localStorage.getItem("taskloom-theme") : "auto";
} catch {}
applyTheme(theme);
themeButton.addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length];
  applyTheme(theme);
  try {
    localStorage.setItem("taskloom-theme", theme);
  } catch {}
});

// The section that is being read is marked in the list of sections.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const visible = new Set();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target.id);
    const current = [...links.keys()].find((id) => visible.has(id));
    for (const [id, link] of links) {
      if (id === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  },
  { rootMargin: "0px 0px -60% 0px" },
);
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);

// A table that is wider than the page shows that it goes on: a phone has no scroll bar.
function showMore(box) {
  box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 8);
}
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => showMore(entry.target)));
for (const box of document.querySelectorAll(".scroll")) {
  sizes.observe(box);
  box.addEventListener("scroll", () => showMore(box), { passive: true });
}

// On paper nothing can be opened.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

// A link to a shortened name opens the whole.
function openWhole() {
  const whole = location.hash.startsWith("#name-") && document.getElementById(location.hash.slice(1));
  if (whole) whole.nextElementSibling.querySelector("details").open = true;
}
addEventListener("hashchange", openWhole);
openWhole();
