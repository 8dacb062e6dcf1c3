// Rows: groups with a name that folds them, and a row for each lane.

const GROUPS = [
  { name: "Clients", kinds: [LANE.clients] },
  { name: "Replicas", kinds: [LANE.replica] },
  { name: "Store", kinds: [LANE.store] },
  { name: "Providers", kinds: [LANE.provider] },
  { name: "Commands", kinds: [LANE.computer] },
  { name: "Turns", kinds: [LANE.turn] },
];
for (const group of GROUPS) {
  group.lanes = group.kinds.flatMap(lanesOf);
  // Turns stay in the order of their acceptance.
  if (group.name !== "Turns") group.lanes.sort((a, b) => labelOf(a).localeCompare(labelOf(b)));
  group.folded = false;
}

const HEAD_HEIGHT = 20;
const ROW_HEIGHT = 24;
const BAR_HEIGHT = 6;
/** Above the bars, for the names of storms. */
const SHADE_HEIGHT = 18;
/** Below the bars, for marks. */
const MARK_HEIGHT = 10;
/** More rows of bars than these are drawn on top of each other. */
const MOST_BAR_ROWS = 10;
const RULER_HEIGHT = 40;
/** Of a narrow window names get the smaller part. */
const GUTTER_WIDTH = innerWidth < 700 ? 118 : 176;

/** Rows from top to bottom: y and height without the scrolling. */
let rows = [];
let rowOf = new Map();
let rowsHeight = 0;

const barRows = (lane) => Math.min(spans[lane].rows, MOST_BAR_ROWS);

function laneHeight(lane) {
  const hasBars = lanes.kind[lane] === LANE.provider || lanes.kind[lane] === LANE.computer;
  if (!hasBars) return ROW_HEIGHT;
  const strip = spans[lane].shades.length ? SHADE_HEIGHT : 6;
  return Math.max(ROW_HEIGHT + 4, MARK_HEIGHT + strip + Math.max(barRows(lane), topLimit(lane)) * BAR_HEIGHT);
}

const topLimit = (lane) =>
  Math.min(MOST_BAR_ROWS, limits[lane].reduce((most, limit) => Math.max(most, limit.value), 0));

/** Only turns that are open in what is seen have a row. */
const narrow = { on: false, kept: "" };

function isKept(lane) {
  if (!filter.turns[lane]) return false;
  const list = bands[lane];
  if (!narrow.on || list.length === 0) return !narrow.on;
  return list[0].u0 <= unitOfX(view.width) && list[list.length - 1].u1 >= unitOfX(GUTTER_WIDTH);
}

/** Lays the rows anew if other turns are seen now. */
function followView() {
  if (!narrow.on) return;
  const kept = lanesOf(LANE.turn).filter(isKept).join();
  if (kept === narrow.kept) return;
  narrow.kept = kept;
  layRows();
  clampView();
}

function layRows() {
  rows = [];
  rowOf = new Map();
  let y = 0;
  for (const group of GROUPS) {
    const kept = group.name === "Turns" ? group.lanes.filter(isKept) : group.lanes;
    if (group.lanes.length === 0) continue;
    rows.push({ group, y, height: HEAD_HEIGHT, count: kept.length });
    y += HEAD_HEIGHT;
    if (group.folded) continue;
    for (const lane of kept) {
      const height = laneHeight(lane);
      rowOf.set(lane, rows.length);
      rows.push({ lane, y, height });
      y += height;
    }
  }
  rowsHeight = y;
}

/** What is seen of it: the first unit, pixels a unit, pixels scrolled down. */
const view = { from: 0, scale: 1, top: 0, width: 0, height: 0 };

const plotWidth = () => Math.max(view.width - GUTTER_WIDTH, 50);
const xOf = (unit) => GUTTER_WIDTH + (unit - view.from) * view.scale;
const unitOfX = (x) => view.from + (x - GUTTER_WIDTH) / view.scale;

function clampView() {
  const least = (plotWidth() - 24) / warp.total;
  view.scale = Math.min(Math.max(view.scale, least), Math.max(least, 400));
  const seen = plotWidth() / view.scale;
  const margin = 12 / view.scale;
  view.from = Math.min(Math.max(view.from, -margin), Math.max(-margin, warp.total + margin - seen));
  const most = Math.max(0, rowsHeight - (view.height - RULER_HEIGHT));
  view.top = Math.min(Math.max(view.top, 0), most);
}

function fit() {
  view.scale = 0;
  view.from = -Infinity;
  clampView();
}

function zoom(factor, x = GUTTER_WIDTH + plotWidth() / 2) {
  const unit = unitOfX(x);
  view.scale *= factor;
  clampView();
  view.from = unit - (x - GUTTER_WIDTH) / view.scale;
  clampView();
}

/** So close that about `count` steps around an event are seen. */
function zoomTo(event, count) {
  const place = stepOf(event);
  const last = steps.length - 1;
  const first = unitOfEvent[steps[Math.max(0, place - (count >> 1))]] ?? 0;
  const end = unitOfEvent[steps[Math.min(last, place + (count >> 1))]] ?? warp.total;
  view.scale = plotWidth() / Math.max(end - first, 1);
  clampView();
  view.from = first;
  clampView();
}

/** Moves as little as shows the event. */
function reveal(event) {
  const x = xOf(unitOfEvent[event]);
  const [left, right] = [GUTTER_WIDTH + 40, view.width - 40];
  if (x < left || x > right) view.from = unitOfEvent[event] - plotWidth() / 2 / view.scale;
  const row = rows[rowOf.get(events.lane[event])];
  if (row) {
    const seen = view.height - RULER_HEIGHT;
    if (row.y < view.top) view.top = row.y - ROW_HEIGHT;
    if (row.y + row.height > view.top + seen) view.top = row.y + row.height + ROW_HEIGHT - seen;
  }
  clampView();
}

/** The row at a height of the canvas. */
function rowAt(y) {
  if (y < RULER_HEIGHT) return undefined;
  const place = lowerBound(rows, y - RULER_HEIGHT + view.top + 1e-6, (row) => row.y + row.height);
  return rows[place];
}
