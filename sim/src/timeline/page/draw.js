// The picture. One canvas; only what is seen is drawn, and of what would fall
// on one pixel only one.

const canvas = document.getElementById("canvas");
const pen = canvas.getContext("2d", { alpha: false });
const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif';
const SMALL_FONT = '11px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif';

/** Colours by their names in the style sheet; read again when the theme changes. */
let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names =
    "bg panel fg muted line faint accent ink match blocked parked retry streaming tools up paused draining down done error aborted good shut open bad storm partition jump client store provider tool log state life fault timer stream poll";
  colours = Object.fromEntries(names.split(" ").map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** The event that is looked at, and the one under the pointer. */
const selection = { event: NOTHING, hover: NOTHING };

/** Marks are drawn in this order: the last one is on top. */
const MARK_ORDER = ["poll", "stream", "store", "state", "timer", "log", "provider", "tool", "client", "life", "fault"];
const MARK_RANK = raw.kinds.map((name) => MARK_ORDER.indexOf(name));

/** Lines between lanes are drawn while no more events than these are seen. */
const MOST_MESSAGES = 260;

let drawPending = false;
function redraw() {
  if (drawPending) return;
  drawPending = true;
  requestAnimationFrame(() => {
    drawPending = false;
    draw();
  });
}

/** Whether the canvas, and with it all that was drawn, is new. */
function resize() {
  const box = canvas.parentElement.getBoundingClientRect();
  if (box.width === view.width && box.height === view.height) return false;
  const ratio = window.devicePixelRatio || 1;
  view.width = box.width;
  view.height = box.height;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  clampView();
  return true;
}

function draw() {
  followView();
  pen.fillStyle = colours.bg;
  pen.fillRect(0, 0, view.width, view.height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  pen.save();
  pen.beginPath();
  pen.rect(0, RULER_HEIGHT, view.width, view.height - RULER_HEIGHT);
  pen.clip();
  const seen = rows.filter((row) => rowY(row) + row.height > RULER_HEIGHT && rowY(row) < view.height);
  for (const row of seen) drawBackground(row);
  drawJumpShades();
  for (const row of seen) if (row.lane !== undefined) drawLane(row);
  drawMessages();
  drawSelection();
  for (const row of seen) drawName(row);
  pen.restore();
  drawRuler();
}

const rowY = (row) => row.y - view.top + RULER_HEIGHT;

function line(x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function drawBackground(row) {
  const y = rowY(row);
  if (row.group) {
    pen.fillStyle = colours.faint;
    pen.fillRect(0, y, view.width, row.height);
    return;
  }
  pen.strokeStyle = colours.faint;
  pen.lineWidth = 1;
  const bottom = Math.round(y + row.height) - 0.5;
  line(GUTTER_WIDTH, bottom, view.width, bottom);
}

function drawJumpShades() {
  pen.fillStyle = colours.jump;
  for (const jump of seenJumps()) {
    const [x0, x1] = [xOf(warp.units[jump.place]), xOf(warp.units[jump.place + 1])];
    if (x1 - x0 > 22) pen.fillRect(x0, RULER_HEIGHT, x1 - x0, view.height);
  }
}

function seenJumps() {
  const [from, to] = [unitOfX(GUTTER_WIDTH), unitOfX(view.width)];
  const first = lowerBound(warp.jumps, from, (jump) => warp.units[jump.place + 1]);
  const end = lowerBound(warp.jumps, to, (jump) => warp.units[jump.place]);
  return warp.jumps.slice(first, end);
}

function drawLane(row) {
  const { lane } = row;
  const dimmed = filter.query && lanes.kind[lane] === LANE.turn && !filter.turns[lane];
  pen.globalAlpha = dimmed ? 0.3 : 1;
  drawShades(row);
  drawBands(row);
  drawBars(row);
  drawLimit(row);
  drawMarks(row);
  drawEnding(row);
  nameShades(row);
  pen.globalAlpha = 1;
}

function drawShades(row) {
  for (const shade of spans[row.lane].shades) {
    const x0 = Math.max(xOf(shade.u0), GUTTER_WIDTH);
    const x1 = Math.min(xOf(shade.u1), view.width);
    if (x1 <= x0) continue;
    const y = rowY(row);
    pen.fillStyle = shade.kind === SPAN.storm ? colours.storm : colours.partition;
    pen.fillRect(x0, y, x1 - x0, row.height - 1);
    hatch(x0, y, x1 - x0, row.height - 1, colours.fault, 0.16);
  }
}

/** On top of the bars, in the strip that is kept free for it. */
function nameShades(row) {
  if (lanes.kind[row.lane] !== LANE.provider) return;
  for (const shade of spans[row.lane].shades) {
    const x0 = Math.max(xOf(shade.u0), GUTTER_WIDTH);
    const x1 = Math.min(xOf(shade.u1), view.width);
    if (x1 - x0 > 44) label(shade.label, x0 + 4, rowY(row) + 8, x1 - x0 - 6, colours.fault, SMALL_FONT);
  }
}

function drawBands(row) {
  const list = bands[row.lane];
  const [from, to] = [unitOfX(GUTTER_WIDTH), unitOfX(view.width)];
  const [y, height] = [rowY(row) + 2, row.height - 10];
  let done = -1;
  for (let n = lowerBound(list, from, (band) => band.u1); n < list.length && list[n].u0 < to; n++) {
    const band = list[n];
    const x0 = Math.max(xOf(band.u0), GUTTER_WIDTH);
    const x1 = Math.min(Math.max(xOf(band.u1), x0 + 1), view.width);
    if (x1 - x0 <= 1.2 && Math.floor(x0) === done) continue;
    done = Math.floor(x0);
    pen.fillStyle = colours[band.style] || colours.blocked;
    pen.fillRect(x0, y, x1 - x0, height);
    if (band.style === "retry" || band.style === "down") hatch(x0, y, x1 - x0, height, colours.ink, 0.16);
    if (x1 - x0 > 46) label(STATE_NAMES[band.style] || band.style, x0 + 4, y + height / 2 + 0.5, x1 - x0 - 6, colours.ink, SMALL_FONT);
  }
}

const STATE_NAMES = { parked: "queued", retry: "retry wait" };

function hatch(x, y, width, height, colour, alpha) {
  if (width < 3) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.globalAlpha *= alpha;
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.beginPath();
  const phase = x - ((x + view.from * view.scale) % 8);
  for (let at = phase - height - 8; at < x + width; at += 8) {
    pen.moveTo(at, y + height);
    pen.lineTo(at + height, y);
  }
  pen.stroke();
  pen.restore();
}

function drawBars(row) {
  const { bars } = spans[row.lane];
  if (bars.length === 0) return;
  const to = unitOfX(view.width);
  const end = lowerBound(bars, to, (bar) => bar.u0);
  const bottom = rowY(row) + row.height - MARK_HEIGHT;
  for (let n = 0; n < end; n++) {
    const bar = bars[n];
    const x1 = Math.min(xOf(bar.u1), view.width);
    if (x1 < GUTTER_WIDTH) continue;
    const x0 = Math.max(xOf(bar.u0), GUTTER_WIDTH);
    const y = bottom - (Math.min(bar.row, MOST_BAR_ROWS - 1) + 1) * BAR_HEIGHT;
    pen.fillStyle = colours[barStyle(bar)];
    pen.globalAlpha = filter.query && bar.turn >= 0 && !filter.turns[bar.turn] ? 0.25 : 1;
    pen.fillRect(x0, y, Math.max(x1 - x0, 1.5), BAR_HEIGHT - 1);
  }
  pen.globalAlpha = 1;
}

function drawLimit(row) {
  const list = limits[row.lane];
  if (list.length === 0) return;
  pen.strokeStyle = colours.muted;
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  const bottom = rowY(row) + row.height - MARK_HEIGHT;
  for (let n = 0; n < list.length; n++) {
    const x0 = Math.max(xOf(unitAt(list[n].from)), GUTTER_WIDTH);
    const x1 = n + 1 < list.length ? xOf(unitAt(list[n + 1].from)) : xOf(warp.total);
    if (x1 < GUTTER_WIDTH) continue;
    const y = Math.round(bottom - Math.min(list[n].value, MOST_BAR_ROWS) * BAR_HEIGHT) - 0.5;
    line(x0, y, Math.min(x1, view.width), y);
  }
  pen.setLineDash([]);
}

function drawMarks(row) {
  const list = laneEvents[row.lane];
  const from = unitOfX(GUTTER_WIDTH - 6);
  const to = unitOfX(view.width + 6);
  const first = lowerBound(list, from, (n) => unitOfEvent[n]);
  const base = rowY(row) + row.height - 3;
  const isTurn = lanes.kind[row.lane] === LANE.turn;
  const best = new Map();
  for (let place = first; place < list.length; place++) {
    const n = list[place];
    const unit = unitOfEvent[n];
    if (unit > to) break;
    const kind = events.kind[n];
    if (!filter.kinds[kind]) continue;
    // What concerns a turn and happens elsewhere has its mark there.
    if (isTurn && events.lane[n] !== row.lane) continue;
    const x = Math.round(xOf(unit));
    const rank = MARK_RANK[kind] + (filter.query && filter.matches[n] ? 20 : 0);
    const there = best.get(x);
    if (there === undefined || rank > there.rank) best.set(x, { n, kind, rank });
  }
  const faults = [];
  for (const [x, { n, kind }] of best) {
    pen.globalAlpha = filter.query && !filter.matches[n] ? 0.25 : 1;
    pen.fillStyle = colours[raw.kinds[kind]];
    if (kind === KIND.fault) faults.push([x, n]);
    else if (kind === KIND.life) triangle(x, base);
    else pen.fillRect(x - 0.75, base - 6, 1.5, 7);
  }
  for (const [x, n] of faults) {
    pen.globalAlpha = filter.query && !filter.matches[n] ? 0.25 : 1;
    diamond(x, rowY(row) + row.height - 9, 4.5);
  }
  pen.globalAlpha = 1;
}

function triangle(x, base) {
  pen.beginPath();
  pen.moveTo(x - 4, base + 1);
  pen.lineTo(x + 4, base + 1);
  pen.lineTo(x, base - 7);
  pen.fill();
}

function diamond(x, y, size) {
  pen.beginPath();
  pen.moveTo(x, y - size);
  pen.lineTo(x + size, y);
  pen.lineTo(x, y + size);
  pen.lineTo(x - size, y);
  pen.closePath();
  pen.fillStyle = colours.fault;
  pen.fill();
  pen.strokeStyle = colours.bg;
  pen.lineWidth = 1;
  pen.stroke();
}

const ENDING_SIGNS = { done: "✓", error: "✕", aborted: "■" };

function drawEnding(row) {
  const ending = endings[row.lane];
  if (!ending) return;
  const x = xOf(unitAt(ending.us)) + 9;
  if (x < GUTTER_WIDTH - 4 || x > view.width + 8) return;
  const y = rowY(row) + row.height / 2 - 2;
  pen.fillStyle = colours[ending.how] || colours.muted;
  pen.beginPath();
  pen.arc(x, y, 6.5, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = colours.bg;
  pen.font = "bold 10px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.fillText(ENDING_SIGNS[ending.how] || "?", x, y + 0.5);
  pen.textAlign = "left";
  pen.font = FONT;
}

/** Where a message begins: at the effect that it answers, or right across. */
function message(n) {
  const from = events.from[n];
  if (from < 0 || from === events.lane[n]) return null;
  const source = rows[rowOf.get(from)];
  const target = rows[rowOf.get(events.lane[n])];
  if (!source || !target) return null;
  const cause = events.cause[n];
  const answers = cause >= 0 && events.lane[cause] === from;
  const x0 = xOf(answers ? unitOfEvent[cause] : unitOfEvent[n]);
  return [x0, rowY(source) + source.height / 2, xOf(unitOfEvent[n]), rowY(target) + target.height / 2];
}

function drawMessages() {
  const from = lowerBound(steps, unitOfX(GUTTER_WIDTH), (n) => unitOfEvent[n]);
  const end = lowerBound(steps, unitOfX(view.width), (n) => unitOfEvent[n]);
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER_WIDTH, 0, view.width, view.height);
  pen.clip();
  if (end - from <= MOST_MESSAGES) {
    pen.lineWidth = 1;
    for (let place = from; place < end; place++) {
      const path = message(steps[place]);
      if (!path) continue;
      pen.strokeStyle = colours[raw.kinds[events.kind[steps[place]]]];
      pen.globalAlpha = 0.3;
      line(...path);
    }
  }
  pen.globalAlpha = 1;
  if (selection.event !== NOTHING) {
    pen.strokeStyle = colours.accent;
    for (const n of story(selection.event)) {
      const path = message(n);
      if (!path) continue;
      pen.lineWidth = n === selection.event ? 2 : 1.25;
      line(...path);
      arrow(path);
    }
  }
  pen.restore();
}

function arrow([x0, y0, x1, y1]) {
  const angle = Math.atan2(y1 - y0, x1 - x0);
  pen.fillStyle = colours.accent;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x1 - 7 * Math.cos(angle - 0.4), y1 - 7 * Math.sin(angle - 0.4));
  pen.lineTo(x1 - 7 * Math.cos(angle + 0.4), y1 - 7 * Math.sin(angle + 0.4));
  pen.fill();
}

/** An event, a few of its causes, and what came of it at once. */
function story(event) {
  const all = [event];
  for (let n = events.cause[event]; n >= 0 && all.length < 8; n = events.cause[n]) all.push(n);
  for (const n of effects(event).subarray(0, 8)) if (filter.kinds[events.kind[n]]) all.push(n);
  return all;
}

function drawSelection() {
  for (const [event, colour, width] of [
    [selection.hover, colours.muted, 1],
    [selection.event, colours.accent, 1.5],
  ]) {
    if (event === NOTHING) continue;
    const x = xOf(unitOfEvent[event]);
    if (x < GUTTER_WIDTH || x > view.width) continue;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    line(x, RULER_HEIGHT, x, view.height);
    const row = rows[rowOf.get(events.lane[event])];
    if (!row) continue;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, rowY(row) + row.height / 2, 6, 0, 2 * Math.PI);
    pen.stroke();
  }
}

function drawName(row) {
  const y = rowY(row);
  if (row.group) {
    label(`${row.group.folded ? "▸" : "▾"} ${row.group.name}`, 8, y + row.height / 2, 120, colours.muted, SMALL_FONT);
    label(String(row.count), GUTTER_WIDTH - 28, y + row.height / 2, 26, colours.muted, SMALL_FONT);
    return;
  }
  pen.fillStyle = colours.bg;
  pen.fillRect(0, y, GUTTER_WIDTH, row.height);
  pen.strokeStyle = colours.line;
  pen.lineWidth = 1;
  line(GUTTER_WIDTH - 0.5, y, GUTTER_WIDTH - 0.5, y + row.height);
  const isSubject =
    selection.event !== NOTHING && (events.lane[selection.event] === row.lane || events.turn[selection.event] === row.lane);
  if (isSubject) {
    pen.fillStyle = colours.accent;
    pen.fillRect(0, y + 1, 3, row.height - 2);
  }
  const about = text(lanes.about[row.lane]);
  const name = labelOf(row.lane);
  const middle = y + row.height / 2;
  label(name, 12, middle, about ? 44 : GUTTER_WIDTH - 20, colours.fg, isSubject ? `600 ${FONT}` : FONT);
  if (about) label(about, 52, middle, GUTTER_WIDTH - 60, colours.muted, SMALL_FONT);
}

/** A text that is cut where it would not fit. */
function label(words, x, y, width, colour, font) {
  pen.font = font;
  pen.fillStyle = colour;
  let shown = words;
  if (pen.measureText(shown).width > width) {
    const part = width / pen.measureText(words).width;
    shown = words.slice(0, Math.max(0, Math.floor(words.length * part) - 1));
    if (shown.length < 2) return;
    shown += "…";
  }
  pen.fillText(shown, x, y);
}

function drawRuler() {
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, view.width, RULER_HEIGHT);
  pen.save();
  pen.beginPath();
  pen.rect(GUTTER_WIDTH, 0, view.width, RULER_HEIGHT);
  pen.clip();
  drawTicks();
  drawJumps();
  pen.restore();
  pen.strokeStyle = colours.line;
  pen.lineWidth = 1;
  line(0, RULER_HEIGHT - 0.5, view.width, RULER_HEIGHT - 0.5);
  const name = warp.shortened ? "time, jumps shortened" : "time";
  label(name, 12, RULER_HEIGHT / 2, GUTTER_WIDTH - 20, colours.muted, SMALL_FONT);
  if (selection.event !== NOTHING) drawFlag(xOf(unitOfEvent[selection.event]), clock(at[selection.event]));
}

/** Units at which ticks are seen. */
function tickUnits() {
  // A power of two of units, so that ticks stay where they are under panning.
  const step = 2 ** Math.ceil(Math.log2(96 / view.scale));
  const units = [];
  for (let n = Math.floor(view.from / step); xOf(n * step) < view.width; n++) {
    if (n >= 0 && n * step <= warp.total) units.push(n * step);
  }
  return units;
}

function drawTicks() {
  const units = tickUnits();
  const words = clocks(units.map(timeAt));
  pen.strokeStyle = colours.line;
  units.forEach((unit, n) => {
    const x = Math.round(xOf(unit)) + 0.5;
    line(x, 0, x, 18);
    label(words[n], x + 4, 10, 90, colours.muted, SMALL_FONT);
  });
}

/** Labels beyond these would not find room anyway. */
const MOST_JUMP_LABELS = 60;

/** The longest jumps are labelled first, wherever there is room for it. */
function drawJumps() {
  const [y, height] = [21, RULER_HEIGHT - 23];
  const jumps = seenJumps();
  for (const jump of jumps) {
    const [x0, x1] = [xOf(warp.units[jump.place]), xOf(warp.units[jump.place + 1])];
    if (x1 - x0 < 4) continue;
    pen.fillStyle = colours.faint;
    pen.fillRect(x0 + 0.5, y, x1 - x0 - 1, height);
    hatch(x0 + 0.5, y, x1 - x0 - 1, height, colours.muted, 0.14);
  }
  pen.font = SMALL_FONT;
  const taken = [];
  const longest = jumps.sort((a, b) => b.us - a.us).slice(0, MOST_JUMP_LABELS);
  for (const jump of longest) {
    const left = Math.max(xOf(warp.units[jump.place]), GUTTER_WIDTH);
    const right = Math.min(xOf(warp.units[jump.place + 1]), view.width);
    const whole = jumpLabel(jump);
    const short = `+${lasting(jump.us)}`;
    const room = (words) => {
      const end = left + pen.measureText(words).width + 9;
      return end <= view.width && taken.every(([from, to]) => end <= from || left >= to) ? end : 0;
    };
    const words = room(whole) ? whole : short;
    const end = room(words);
    if (!end) continue;
    taken.push([left, Math.max(end, right)]);
    pen.fillStyle = colours.muted;
    pen.fillRect(left, y, 1, height);
    label(words, left + 4, 30, end - left, colours.fg, SMALL_FONT);
  }
}

function drawFlag(x, words) {
  if (x < GUTTER_WIDTH || x > view.width) return;
  pen.font = SMALL_FONT;
  const width = pen.measureText(words).width + 10;
  const left = Math.min(Math.max(x - width / 2, GUTTER_WIDTH), view.width - width);
  pen.fillStyle = colours.accent;
  pen.fillRect(left, 1, width, 18);
  label(words, left + 5, 10, width, colours.bg, SMALL_FONT);
}
