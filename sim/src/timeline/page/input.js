// Keys, pointer, wheel.

const tip = document.getElementById("tip");
const searchBox = document.getElementById("search");

/** The shown event nearest to a point of the canvas, on the row under it. */
function eventAt(x, y) {
  const row = rowAt(y);
  if (!row || row.lane === undefined || x < GUTTER_WIDTH) return NOTHING;
  const list = laneEvents[row.lane];
  const unit = unitOfX(x);
  const middle = lowerBound(list, unit, (n) => unitOfEvent[n]);
  const reach = 7 / view.scale;
  let best = NOTHING;
  let bestScore = Infinity;
  const look = (n) => {
    if (!filter.kinds[events.kind[n]]) return;
    const away = Math.abs(unitOfEvent[n] - unit) * view.scale;
    // A fault is easier to hit than a tick beside it; what has its mark here, too.
    const score = away - MARK_RANK[events.kind[n]] * 0.2 - (events.lane[n] === row.lane ? 3 : 0);
    if (away <= 7 && score < bestScore) [best, bestScore] = [n, score];
  };
  for (let p = middle; p < list.length && unitOfEvent[list[p]] - unit <= reach; p++) look(list[p]);
  for (let p = middle - 1; p >= 0 && unit - unitOfEvent[list[p]] <= reach; p--) look(list[p]);
  return best;
}

/** What lasts at a point of the canvas, in words. */
function bandAt(x, y) {
  const row = rowAt(y);
  if (!row || row.lane === undefined || x < GUTTER_WIDTH) return null;
  const unit = unitOfX(x);
  const held = (one) => one.u0 <= unit && unit <= one.u1;
  const bottom = rowY(row) + row.height - MARK_HEIGHT;
  const bar = spans[row.lane].bars.find((one) => {
    const top = bottom - (Math.min(one.row, MOST_BAR_ROWS - 1) + 1) * BAR_HEIGHT;
    return held(one) && y >= top && y < top + BAR_HEIGHT;
  });
  if (bar) return [`${raw.spanKinds[bar.kind]}: ${bar.label}`, `${lasting(bar.to - bar.from)}, ${bar.result}`];
  const shade = spans[row.lane].shades.find(held);
  if (shade) return [shade.label, lasting(shade.to - shade.from)];
  const band = bands[row.lane].find(held);
  if (!band) return null;
  const name = STATE_NAMES[band.style] || band.style;
  return [`${labelOf(row.lane)}: ${name}`, `${lasting(band.to - band.from)} from ${clock(band.from)}`];
}

function jumpAt(x, y) {
  if (y > RULER_HEIGHT || x < GUTTER_WIDTH) return null;
  const unit = unitOfX(x);
  const jump = seenJumps().find((one) => warp.units[one.place] <= unit && unit <= warp.units[one.place + 1]);
  return jump ? [jumpLabel(jump), `from ${clock(warp.times[jump.place])}`] : null;
}

function showTip(x, y, words) {
  tip.hidden = !words;
  if (!words) return;
  const [title, ...small] = words;
  tip.replaceChildren(title, ...small.map((one) => make("small", "", one)));
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, view.width - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > view.height ? y - box.height - 10 : y + 18}px`;
}

function hover(x, y) {
  const event = eventAt(x, y);
  const before = selection.hover;
  selection.hover = event;
  if (event !== NOTHING) {
    const more = effects(event).length ? `, led to ${effects(event).length}` : "";
    showTip(x, y, [text(events.title[event]), `${eventName(event).split(":")[0]} · ${clock(at[event])}${more}`]);
  } else {
    showTip(x, y, jumpAt(x, y) ?? bandAt(x, y));
  }
  if (before !== event) redraw();
}

/** Fingers and buttons that are down, by pointer. */
const pointers = new Map();
let dragged = false;

function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

canvas.addEventListener("pointerdown", (event) => {
  pointers.set(event.pointerId, place(event));
  dragged = false;
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  const now = place(event);
  const before = pointers.get(event.pointerId);
  if (!before) {
    hover(now.x, now.y);
    return;
  }
  const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId);
  if (others.length === 1) {
    const other = others[0][1];
    const [was, is] = [Math.abs(before.x - other.x), Math.abs(now.x - other.x)];
    if (was > 8 && is > 8) zoom(is / was, (now.x + other.x) / 2);
    dragged = true;
  } else if (dragged || Math.hypot(now.x - before.x, now.y - before.y) > 3) {
    dragged = true;
    view.from -= (now.x - before.x) / view.scale;
    view.top -= now.y - before.y;
    clampView();
  }
  if (dragged) {
    pointers.set(event.pointerId, now);
    showTip(0, 0, null);
    redraw();
  }
});
canvas.addEventListener("pointerup", (event) => {
  pointers.delete(event.pointerId);
  if (dragged) return;
  const { x, y } = place(event);
  const row = rowAt(y);
  if (row?.group) {
    row.group.folded = !row.group.folded;
    layRows();
    clampView();
    redraw();
    return;
  }
  const found = eventAt(x, y);
  if (found !== NOTHING) select(found, { unhide: true, keepView: true });
});
canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
canvas.addEventListener("pointerleave", () => {
  selection.hover = NOTHING;
  showTip(0, 0, null);
  redraw();
});
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const size = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    const [dx, dy] = [event.deltaX * size, event.deltaY * size];
    const { x } = place(event);
    if (event.shiftKey || Math.abs(dx) > Math.abs(dy)) view.from += (dx || dy) / view.scale;
    else if (x < GUTTER_WIDTH && !event.ctrlKey) view.top += dy;
    else zoom(Math.exp(-dy * (event.ctrlKey ? 0.01 : 0.0022)), Math.max(x, GUTTER_WIDTH));
    clampView();
    showTip(0, 0, null);
    redraw();
  },
  { passive: false },
);

const panBy = (part) => {
  view.from += (plotWidth() * part) / view.scale;
  clampView();
  redraw();
};
const scrollBy = (pixels) => {
  view.top += pixels;
  clampView();
  redraw();
};
const zoomBy = (factor) => {
  const x = selection.event === NOTHING ? NaN : xOf(unitOfEvent[selection.event]);
  zoom(factor, x >= GUTTER_WIDTH && x <= view.width ? x : undefined);
  redraw();
};

function stepBy(count) {
  if (steps.length === 0) return;
  const here = stepOf(selection.event);
  const isBetween = steps[here] !== selection.event && count < 0;
  const to = Math.min(Math.max(here + (isBetween ? count + 1 : count), 0), steps.length - 1);
  select(steps[to]);
}

/** To the next shown event of the selected one's own lane. */
function stepOnLane(count) {
  if (selection.event === NOTHING) return;
  const lane = events.turn[selection.event] >= 0 ? events.turn[selection.event] : events.lane[selection.event];
  const list = laneEvents[lane].filter((n) => filter.kinds[events.kind[n]]);
  const next = list[lowerBound(list, selection.event) + count];
  if (next !== undefined) select(next);
}

const KEYS = {
  ArrowRight: () => stepBy(1),
  ArrowLeft: () => stepBy(-1),
  ArrowDown: () => scrollBy(44),
  ArrowUp: () => scrollBy(-44),
  PageDown: () => scrollBy(view.height * 0.8),
  PageUp: () => scrollBy(-view.height * 0.8),
  Home: () => stepBy(-Infinity),
  End: () => stepBy(Infinity),
  "+": () => zoomBy(1.5),
  "=": () => zoomBy(1.5),
  "-": () => zoomBy(1 / 1.5),
  0: () => {
    fit();
    redraw();
  },
  a: () => panBy(-0.25),
  d: () => panBy(0.25),
  w: () => scrollBy(-44),
  s: () => scrollBy(44),
  c: () => {
    const cause = selection.event === NOTHING ? NOTHING : events.cause[selection.event];
    if (cause >= 0) select(cause, { unhide: true });
  },
  v: () => showViolation(),
  j: () => toggleJumps(),
  l: () => toggleNarrow(),
  t: () => nextTheme(),
  "/": () => searchBox.focus(),
  "?": () => document.getElementById("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isText = event.target === searchBox || document.getElementById("help").open;
  if (isText) return;
  // The panel scrolls by these itself.
  const scrolls = ["ArrowUp", "ArrowDown", "PageUp", "PageDown"].includes(event.key);
  if (scrolls && panel.contains(event.target)) return;
  if (event.shiftKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    stepOnLane(event.key === "ArrowRight" ? 1 : -1);
    event.preventDefault();
    return;
  }
  const obey = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!obey) return;
  event.preventDefault();
  obey();
});
