// Puts it together: header, controls, and the one way to look at an event.

const byId = (id) => document.getElementById(id);
const scrubber = byId("scrubber");

/** Looks at an event. */
function select(event, { unhide = false, keepView = false } = {}) {
  if (event === undefined || event === NOTHING) return;
  const kind = events.kind[event];
  if (unhide && !filter.kinds[kind]) {
    filter.kinds[kind] = true;
    refilter();
  }
  selection.event = event;
  if (!keepView) reveal(event);
  renderPanel();
  renderMoment();
  redraw();
}

function renderMoment() {
  const step = stepOf(selection.event);
  scrubber.value = String(step);
  const place = `${(step + 1).toLocaleString("en")} of ${steps.length.toLocaleString("en")}`;
  byId("moment").textContent = selection.event === NOTHING ? "" : `${place} · ${clock(at[selection.event])}`;
  scrubber.setAttribute("aria-valuetext", selection.event === NOTHING ? "" : eventName(selection.event));
}

/** After the filter or the layout of time has changed. */
function refilter() {
  const centre = selection.event === NOTHING ? null : xOf(unitOfEvent[selection.event]);
  applyFilter();
  layTime(shown);
  placeBands();
  layRows();
  clampView();
  if (centre !== null && centre > GUTTER_WIDTH && centre < view.width) {
    view.from = unitOfEvent[selection.event] - (centre - GUTTER_WIDTH) / view.scale;
    clampView();
  }
  scrubber.max = String(Math.max(0, steps.length - 1));
  byId("found").textContent = filter.query ? `${steps.length.toLocaleString("en")} found` : "";
  renderKinds();
  renderMoment();
  redraw();
}

function renderKinds() {
  const chips = raw.kinds.map((name, kind) => {
    if (kindCounts[kind] === 0) return null;
    const button = make(
      "button",
      "",
      kindChip(kind).firstChild,
      name,
      make("span", "count", kindCounts[kind].toLocaleString("en")),
    );
    button.type = "button";
    button.setAttribute("aria-pressed", String(filter.kinds[kind]));
    button.addEventListener("click", () => {
      filter.kinds[kind] = !filter.kinds[kind];
      refilter();
      byId("kinds").children[[...chips.filter(Boolean)].indexOf(button)]?.focus();
    });
    return button;
  });
  byId("kinds").replaceChildren(...chips.filter(Boolean));
}

function renderHeader() {
  const turns = lanesOf(LANE.turn).length;
  const replicas = lanesOf(LANE.replica).length;
  const counted = (n, name) => `${n.toLocaleString("en")} ${name}${n === 1 ? "" : "s"}`;
  byId("facts").textContent = [
    counted(eventCount, "event"),
    lasting(endUs - beginUs),
    counted(turns, "turn"),
    counted(replicas, "replica"),
  ].join(" · ");
  byId("command").textContent = raw.command;
  byId("command").title = raw.command;
  const remarks = byId("remarks");
  remarks.hidden = raw.remarks.length === 0;
  remarks.replaceChildren(...raw.remarks.map((words) => make("li", "", words)));
  const { violation } = raw;
  if (!violation) return;
  const button = make("button", "", "Go there");
  button.type = "button";
  button.addEventListener("click", showViolation);
  byId("violation").replaceChildren(
    make("strong", "", violation.oracle),
    make("span", "", `violated at ${clock(violation.atUs)}`),
    button,
    make("dt", "", "expected"),
    make("dd", "", violation.expected),
    make("dt", "", "seen"),
    make("dd", "", violation.seen),
  );
  byId("violation").hidden = false;
}

function violationEvent() {
  if (!raw.violation || eventCount === 0) return NOTHING;
  return lowerBound(at, raw.violation.atUs + 1) - 1;
}

function showViolation() {
  const event = violationEvent();
  if (event === NOTHING) return;
  zoomTo(event, 60);
  select(event, { unhide: true });
}

function renderLegend() {
  const swatch = (style, words) => {
    const box = make("i", "");
    box.style.background = `var(--${style})`;
    return make("span", "", box, words);
  };
  const sign = (style, words) => {
    const mark = make("b", "", ENDING_SIGNS[style]);
    mark.style.color = `var(--${style})`;
    return make("span", "", mark, words);
  };
  byId("legend").replaceChildren(
    swatch("blocked", "blocked"),
    swatch("parked", "queued, paused"),
    swatch("retry", "retry wait, draining"),
    swatch("streaming", "streaming"),
    swatch("tools", "tools"),
    sign("done", "done"),
    sign("error", "error"),
    sign("aborted", "aborted"),
    swatch("up", "up"),
    swatch("down", "down"),
    swatch("good", "request or command"),
    swatch("shut", "closed, killed"),
    swatch("bad", "failed, lost"),
    swatch("storm", "storm, cut off"),
    make("span", "", "┄ limit"),
  );
}

const THEMES = ["auto", "light", "dark"];
function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  readColours();
  redraw();
}
function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

function toggleJumps() {
  warp.shortened = !warp.shortened;
  byId("mode").setAttribute("aria-pressed", String(warp.shortened));
  refilter();
  fit();
  redraw();
}

function toggleNarrow() {
  narrow.on = !narrow.on;
  byId("narrow").setAttribute("aria-pressed", String(narrow.on));
  layRows();
  if (selection.event !== NOTHING) reveal(selection.event);
  redraw();
}

async function copyCommand() {
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(raw.command);
    button.textContent = "Copied";
  } catch {
    // Without a clipboard the text is at least marked.
    getSelection().selectAllChildren(byId("command"));
    button.textContent = "Marked";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function listen() {
  const clicks = {
    first: () => stepBy(-Infinity),
    back: () => stepBy(-1),
    next: () => stepBy(1),
    last: () => stepBy(Infinity),
    "zoom-in": () => zoomBy(1.5),
    "zoom-out": () => zoomBy(1 / 1.5),
    fit: KEYS[0],
    mode: toggleJumps,
    narrow: toggleNarrow,
    theme: nextTheme,
    copy: copyCommand,
    "help-open": () => byId("help").showModal(),
  };
  for (const [id, obey] of Object.entries(clicks)) byId(id).addEventListener("click", obey);
  scrubber.addEventListener("input", () => select(steps[Number(scrubber.value)]));
  searchBox.addEventListener("input", () => {
    search(searchBox.value);
    refilter();
  });
  searchBox.addEventListener("keydown", (event) => {
    if (event.key === "Enter") stepBy(event.shiftKey ? -1 : 1);
    if (event.key === "Escape") {
      searchBox.value = "";
      search("");
      refilter();
      canvas.focus();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    redraw();
  });
  new ResizeObserver(() => {
    if (resize()) draw();
  }).observe(canvas.parentElement);
  addEventListener("hashchange", obeyHash);
}

/** #event=N or last, #span=EVENTS, #search=TEXT, #theme=dark, #kinds=all, #jumps=true-time, #narrow, joined by &. */
function obeyHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.has("theme") && THEMES.includes(wanted.get("theme"))) setTheme(wanted.get("theme"));
  if (wanted.get("jumps") === "true-time" && warp.shortened) toggleJumps();
  if (wanted.has("narrow") && !narrow.on) toggleNarrow();
  if (wanted.get("kinds") === "all") {
    filter.kinds.fill(true);
    refilter();
  }
  if (wanted.has("search")) {
    searchBox.value = wanted.get("search");
    search(searchBox.value);
    refilter();
  }
  const named = wanted.get("event");
  const event = named === "last" ? steps[steps.length - 1] : Number(named ?? NaN);
  const isKnown = Number.isInteger(event) && event >= 0 && event < eventCount;
  if (wanted.has("span") && isKnown) zoomTo(event, Math.max(2, Number(wanted.get("span")) || 60));
  if (isKnown) select(event, { unhide: true });
  if (wanted.has("probe")) probe();
}

readColours();
renderHeader();
renderLegend();
resize();
refilter();
fit();
listen();
if (raw.violation) select(violationEvent(), { unhide: true });
else if (steps.length) select(steps[0]);
else renderPanel();
draw();
const openedMs = performance.now();
obeyHash();
document.documentElement.dataset.ready = "true";
