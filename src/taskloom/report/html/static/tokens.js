// Documents with weighted tokens: the weight of a token, under the pointer or by the arrow keys.
for (const text of document.querySelectorAll(".document")) {
  const tokens = text.getElementsByTagName("b");
  let current = -1;
  const show = (place) => {
    tokens[current]?.classList.remove("on");
    current = place;
    const token = tokens[place];
    if (!token) return hideTip();
    token.classList.add("on");
    const box = token.getBoundingClientRect();
    const said = `\u2068${token.textContent.trim() || "space"}\u2069: weight ${token.dataset.w}`;
    live.textContent = said;
    showTip(said, box.left, box.bottom - 10);
  };
  text.tabIndex = 0;
  text.setAttribute("role", "group");
  text.setAttribute("aria-label", "Weighted document: read the weights with the arrow keys");
  text.addEventListener("pointerover", (event) => {
    const token = event.target.closest("b");
    if (token) showTip(`weight ${token.dataset.w}`, event.clientX, event.clientY);
  });
  text.addEventListener("pointerleave", hideTip);
  text.addEventListener("blur", () => show(-1));
  text.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(tokens.length - 1, to)));
    tokens[current].scrollIntoView({ block: "nearest" });
  });
}
