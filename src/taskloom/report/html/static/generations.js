// Generations: searched and filtered here, and only a page of them is in the document.
class Answers {
  constructor({ names, splits, rows, page }) {
    Object.assign(this, { names, splits, rows, size: page, page: 0 });
    this.form = document.getElementById("answers-form");
    this.body = document.getElementById("answers").tBodies[0];
    this.count = document.getElementById("answers-count");
    this.pager = document.getElementById("answers-pager");
    this.texts = rows.map((row) =>
      [row.i, ...(row.r ?? []), ...row.a.filter(Boolean).map((answer) => answer[0])].join("\n").toLowerCase(),
    );
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.filter());
    this.pager.addEventListener("click", (event) => {
      const step = +event.target.dataset.step;
      if (step) this.turn(this.page + step);
    });
    this.filter();
  }

  filter() {
    const asked = (name) => this.form.elements[name]?.value ?? "";
    const [query, split, right, run] = [asked("q").trim().toLowerCase(), asked("split"), asked("right"), asked("run")];
    this.query = query;
    this.found = this.rows.filter((row, place) => {
      if (split !== "" && row.s !== +split) return false;
      if (query && !this.texts[place].includes(query)) return false;
      const answers = (run === "" ? row.a : [row.a[+run]]).filter(Boolean);
      if (!answers.length) return false;
      switch (right) {
        case "wrong": return answers.some((answer) => answer[2] === 0);
        case "right": return answers.every((answer) => answer[2] === 1);
        case "differ": return new Set(row.a.filter(Boolean).map((answer) => answer[0])).size > 1;
        case "mixed": return new Set(row.a.filter(Boolean).map((answer) => answer[2])).size > 1;
        default: return true;
      }
    });
    this.turn(0);
  }

  turn(page) {
    const pages = Math.max(1, Math.ceil(this.found.length / this.size));
    this.page = Math.max(0, Math.min(pages - 1, page));
    const start = this.page * this.size;
    const shown = this.found.slice(start, start + this.size);
    this.body.replaceChildren(...shown.map((row) => this.row(row)));
    const all = this.rows.length.toLocaleString("en");
    const found = this.found.length.toLocaleString("en");
    this.count.textContent = this.found.length === this.rows.length ? `${all} answered inputs.` : `${found} of ${all} answered inputs.`;
    document.getElementById("answers-page").textContent = `Page ${(this.page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`;
    const [back, on] = this.pager.querySelectorAll("button");
    back.disabled = this.page === 0;
    on.disabled = this.page === pages - 1;
  }

  row(row) {
    const line = document.createElement("tr");
    line.append(
      this.cell(this.splits[row.s]),
      this.cell(row.i, "input"),
      this.cell(row.r === null ? "–" : row.r.join(" | ")),
      ...row.a.map((answer) => {
        if (!answer) return this.cell("–");
        const [text, scores, right] = answer;
        const cell = text ? this.cell(text) : this.cell("(empty)", "small");
        cell.prepend({ 1: "✓ ", 0: "✗ " }[right] ?? "");
        const small = document.createElement("div");
        small.className = "small";
        small.textContent = Object.entries(scores).map(([name, value]) => `${name} ${number(value)}`).join(" · ");
        cell.append(small);
        return cell;
      }),
    );
    return line;
  }

  cell(text, kind) {
    const cell = document.createElement("td");
    cell.dir = "auto";
    if (kind) cell.className = kind;
    const holder = document.createElement("bdi");
    if (text.length > 300 && !this.query) {
      const details = document.createElement("details");
      details.className = "long";
      const summary = document.createElement("summary");
      const start = document.createElement("bdi");
      start.textContent = `${text.slice(0, 300)}…`;
      summary.append(start);
      holder.textContent = text;
      details.append(summary, holder);
      cell.append(details);
      return cell;
    }
    this.mark(holder, text);
    cell.append(holder);
    return cell;
  }

  // Text with what was searched for in <mark>; letters whose lower case is longer are not marked but shown.
  mark(holder, text) {
    const lower = text.toLowerCase();
    if (!this.query || lower.length !== text.length) {
      holder.textContent = text;
      return;
    }
    let from = 0;
    for (let at = lower.indexOf(this.query); at >= 0; at = lower.indexOf(this.query, from)) {
      const mark = document.createElement("mark");
      mark.textContent = text.slice(at, at + this.query.length);
      holder.append(text.slice(from, at), mark);
      from = at + this.query.length;
    }
    holder.append(text.slice(from));
  }
}

if (data.answers) new Answers(data.answers);
