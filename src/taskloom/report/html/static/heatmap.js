// Heatmaps: the numbers of a cell, under the pointer or by the arrow keys. One listener serves all cells.
class Heatmap {
  constructor(holder, map) {
    Object.assign(this, { holder, map, row: 0, column: Math.min(1, map.tasks.length - 1) });
    this.svg = holder.querySelector("svg");
    this.cursor = holder.querySelector(".cursor");
    holder.tabIndex = 0;
    holder.setAttribute("role", "application");
    holder.setAttribute("aria-label", `${this.svg.getAttribute("aria-label")}. Move with the arrow keys.`);
    holder.addEventListener("pointermove", (event) => this.point(event));
    holder.addEventListener("pointerleave", () => this.leave());
    holder.addEventListener("focus", () => {
      if (holder.matches(":focus-visible")) this.show(this.row, this.column);
    });
    holder.addEventListener("blur", () => this.leave());
    holder.addEventListener("keydown", (event) => this.key(event));
  }

  point(event) {
    const { left, top, cell, tasks } = this.map;
    const box = this.svg.getBoundingClientRect();
    const scale = this.svg.viewBox.baseVal.width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - left) / cell);
    const row = Math.floor(((event.clientY - box.top) * scale - top) / cell);
    if (row < 0 || column < 0 || row >= tasks.length || column >= tasks.length) return this.leave();
    this.show(row, column, event);
  }

  key(event) {
    const last = this.map.tasks.length - 1;
    const moves = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -this.column], End: [0, last], PageUp: [-10, 0], PageDown: [10, 0],
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    const [down, right] = moves[event.key];
    const inside = (place) => Math.max(0, Math.min(last, place));
    this.show(inside(this.row + down), inside(this.column + right));
  }

  text(row, column) {
    const { tasks, v, e, g, h } = this.map;
    // First-strong isolates: a name's own direction ends with it.
    const name = (place) => `\u2068${tasks[place]}\u2069`;
    const what = row === column ? `${name(row)} itself` : `${name(row)} trained with ${name(column)}`;
    const gain = g[row][column];
    const sign = gain > 0 ? "+" : "";
    return `${what}\nestimate ${number(v[row][column])} (stderr ${number(e[row][column])})\n` +
      `gain ${sign}${number(gain)} (stderr ${number(h[row][column])})`;
  }

  show(row, column, event) {
    Object.assign(this, { row, column });
    const { left, top, cell } = this.map;
    this.cursor.removeAttribute("hidden");
    this.cursor.setAttribute("x", left + column * cell);
    this.cursor.setAttribute("y", top + row * cell);
    const text = this.text(row, column);
    if (!event) live.textContent = text.replaceAll("\n", "; ");
    const box = this.cursor.getBoundingClientRect();
    showTip(text, event ? event.clientX : box.right, event ? event.clientY : box.bottom);
  }

  leave() {
    this.cursor.setAttribute("hidden", "");
    hideTip();
  }
}

for (const holder of document.querySelectorAll("[data-map]")) {
  const map = data.maps?.[holder.dataset.map];
  if (map) new Heatmap(holder, map);
}
