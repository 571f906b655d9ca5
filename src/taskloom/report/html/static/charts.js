// Charts of lines: the values at a step, under the pointer or by the arrow keys. A chart that is read is a slider.
const svgName = "http://www.w3.org/2000/svg";

class Reader {
  constructor(figure, chart) {
    Object.assign(this, { figure, chart, place: null });
    this.svg = figure.querySelector("svg");
    this.steps = [...new Set(chart.lines.flatMap((line) => line.p.map((point) => point[0])))].sort((a, b) => a - b);
    if (!this.steps.length) return;
    figure.tabIndex = 0;
    figure.setAttribute("role", "slider");
    figure.setAttribute("aria-label", this.svg.getAttribute("aria-label"));
    figure.setAttribute("aria-valuemin", 0);
    figure.setAttribute("aria-valuemax", this.steps.length - 1);
    figure.setAttribute("aria-valuenow", this.steps.length - 1);
    figure.setAttribute("aria-valuetext", this.text(this.steps.length - 1));
    figure.addEventListener("pointermove", (event) => this.point(event));
    figure.addEventListener("pointerleave", () => this.leave());
    figure.addEventListener("keydown", (event) => this.key(event));
    figure.addEventListener("blur", () => this.leave());
  }

  at(step) {
    const [left, , width] = this.chart.box;
    const [low, high] = this.chart.x;
    return left + ((step - low) / (high - low)) * width;
  }

  text(place) {
    const step = this.steps[place];
    const parts = this.chart.lines.map((line) => {
      const point = line.p.find((each) => each[0] === step);
      return point && `${line.name}: ${number(point[1])}`;
    });
    const known = parts.filter(Boolean);
    const more = known.length > 12 ? [`and ${known.length - 12} more`] : [];
    return [`${this.chart.unit} ${step.toLocaleString("en")}`, ...known.slice(0, 12), ...more].join("\n");
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.chart.box[4];
    let best = 0;
    this.steps.forEach((step, place) => {
      if (Math.abs(this.at(step) - x) < Math.abs(this.at(this.steps[best]) - x)) best = place;
    });
    this.show(best, event.clientX, event.clientY);
  }

  key(event) {
    const last = this.steps.length - 1;
    const from = this.place ?? last + 1;
    const to = { ArrowLeft: from - 1, ArrowDown: from - 1, ArrowRight: from + 1, ArrowUp: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const place = Math.max(0, Math.min(last, to));
    const box = this.svg.getBoundingClientRect();
    this.show(place, box.left + (this.at(this.steps[place]) / this.chart.box[4]) * box.width, box.top + box.height / 3);
  }

  show(place, x, y) {
    this.place = place;
    const [, top, , height] = this.chart.box;
    if (!this.cross) {
      this.cross = document.createElementNS(svgName, "path");
      this.cross.setAttribute("class", "cross");
      this.svg.append(this.cross);
    }
    this.cross.setAttribute("d", `M${this.at(this.steps[place])} ${top}v${height}`);
    this.figure.setAttribute("aria-valuenow", place);
    this.figure.setAttribute("aria-valuetext", this.text(place));
    showTip(this.text(place), x, y);
  }

  leave() {
    this.cross?.remove();
    this.cross = null;
    this.place = null;
    hideTip();
  }
}

for (const figure of document.querySelectorAll("[data-chart]")) {
  const chart = data.charts?.[figure.dataset.chart];
  if (chart) new Reader(figure, chart);
}

// One task's curves, or all of them.
const taskChoice = document.getElementById("curves-task");
taskChoice?.addEventListener("change", () => {
  const panels = document.getElementById("curves-panels");
  panels.classList.toggle("one", taskChoice.value !== "");
  for (const panel of panels.children) {
    panel.hidden = taskChoice.value !== "" && panel.dataset.panel !== taskChoice.value;
  }
});
