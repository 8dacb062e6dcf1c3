// Time: how moments are written, and where they stand. Times in which nothing
// happens are shortened, so that hours of waiting and milliseconds of work can
// be seen side by side; a moment's place is then a unit, not a microsecond.

const pad = (n, width = 2) => String(n).padStart(width, "0");

/** h:mm:ss.mmm since the picture's beginning. */
function clock(us) {
  const ms = Math.floor(us / 1000);
  const h = Math.floor(ms / 3600000);
  return `${h}:${pad(Math.floor(ms / 60000) % 60)}:${pad(Math.floor(ms / 1000) % 60)}.${pad(ms % 1000, 3)}`;
}

/** Clocks of a row of moments, all with as many digits as the closest two need:
 * cut off one by one, a later one could seem to be earlier. */
function clocks(moments) {
  const steps = moments.slice(1).map((us, n) => us - moments[n]);
  const least = Math.min(...steps.filter((us) => us > 0));
  const cut = least >= 1e6 ? 4 : least >= 1e5 ? 2 : 0;
  return moments.map((us) => clock(us).slice(0, cut ? -cut : undefined));
}

function lasting(us) {
  const steps = [
    [36e8, "h"],
    [6e7, "min"],
    [1e6, "s"],
    [1e3, "ms"],
  ];
  for (const [size, unit] of steps) {
    if (us >= size) {
      const value = us / size;
      return `${value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} ${unit}`;
    }
  }
  return `${Math.round(us)} µs`;
}

const wall = (us) => new Date(raw.epochMs + us / 1000).toISOString().replace("T", " ").replace("Z", " UTC");

/** A time without events that is at least so long is a jump, and has a label. */
const JUMP_US = 2e6;

const warp = {
  /** Moments at which something happens, and their units. */
  times: new Float64Array(0),
  units: new Float64Array(0),
  /** Place in `times` where each jump begins, and the event that ends it. */
  jumps: [],
  shortened: true,
  total: 1,
};

/** Where each event stands. */
let unitOfEvent = new Float64Array(eventCount);

/** Lays out the moments of these events. */
function layTime(shown) {
  const times = [beginUs];
  const firstAt = [NOTHING];
  for (const n of shown) {
    if (at[n] > times[times.length - 1]) {
      times.push(at[n]);
      firstAt.push(n);
    }
  }
  if (endUs > times[times.length - 1]) {
    times.push(endUs);
    firstAt.push(NOTHING);
  }
  const units = new Float64Array(times.length);
  warp.jumps = [];
  for (let n = 1; n < times.length; n++) {
    const gap = times[n] - times[n - 1];
    units[n] = units[n - 1] + (warp.shortened ? Math.log2(1 + gap / 500) : gap / 1000);
    if (gap >= JUMP_US) warp.jumps.push({ place: n - 1, event: firstAt[n], us: gap });
  }
  warp.times = Float64Array.from(times);
  warp.units = units;
  warp.total = Math.max(units[units.length - 1], 1);
  for (let n = 0; n < eventCount; n++) unitOfEvent[n] = unitAt(at[n]);
}

function between(from, to, x) {
  const n = Math.min(Math.max(lowerBound(from, x), 1), from.length - 1);
  if (from.length < 2) return to[0] ?? 0;
  const part = (x - from[n - 1]) / (from[n] - from[n - 1] || 1);
  return to[n - 1] + Math.min(Math.max(part, 0), 1) * (to[n] - to[n - 1]);
}

const unitAt = (us) => between(warp.times, warp.units, us);
const timeAt = (unit) => between(warp.units, warp.times, unit);

/** What ended a jump: a timer's reason, or that of the first cause that is one. */
function jumpReason(jump) {
  if (jump.event === NOTHING) return "end";
  const wake = events.wake[jump.event];
  if (wake >= 0) return text(wake);
  return text(events.title[jump.event]);
}

const jumpLabel = (jump) => `${jumpReason(jump)} +${lasting(jump.us)}`;
