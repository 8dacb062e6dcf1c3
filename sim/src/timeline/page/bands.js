// What lasts: the states of turns and replicas, requests, commands, storms.

/** Bands of each lane in order: from, to in microseconds, and a style's name. */
const bands = Array.from({ length: laneCount }, () => []);
/** Where each turn ended, and how. */
const endings = Array.from({ length: laneCount }, () => null);
/** Limits of each provider, in order: from, value. */
const limits = Array.from({ length: laneCount }, () => []);

function addBand(lane, from, to, style) {
  if (to > from) bands[lane].push({ from, to, style, u0: 0, u1: 0 });
}

function closeBand(open, lane, to) {
  const { state, from, due } = open;
  if (!state || state === "ended") return;
  if (state === "parked" && due > from) {
    addBand(lane, from, Math.min(due, to), "retry");
    addBand(lane, Math.min(due, to), to, "parked");
  } else {
    addBand(lane, from, to, state);
  }
}

function buildBands() {
  const open = Array.from({ length: laneCount }, () => ({ state: "", from: beginUs, due: 0 }));
  const { lane, field, value } = raw.deltas;
  const set = (d, columns, when, event) => {
    const l = columns.lane[d];
    const f = columns.field[d];
    const v = text(columns.value[d]);
    if (f === FIELD.limit) limits[l].push({ from: when, value: Number(v) });
    if (f === FIELD.terminal) endings[l] = { us: when, how: v.split(":")[0], what: v, event };
    if (f !== FIELD.state && f !== FIELD.due) return;
    closeBand(open[l], l, when);
    open[l].from = when;
    if (f === FIELD.state) open[l].state = v;
    else open[l].due = Number(v) || 0;
  };
  for (let d = 0; d < raw.base.lane.length; d++) set(d, raw.base, beginUs, NOTHING);
  for (let d = 0; d < lane.length; d++) set(d, raw.deltas, at[raw.deltas.event[d]], raw.deltas.event[d]);
  for (let l = 0; l < laneCount; l++) closeBand(open[l], l, endUs);
}
buildBands();

/** Spans by lane; requests and commands are packed into as few rows as hold them. */
const spans = Array.from({ length: laneCount }, () => ({ bars: [], shades: [], rows: 0 }));

function buildSpans() {
  const { kind, lane, turn, from, to, label, result } = raw.spans;
  for (let n = 0; n < kind.length; n++) {
    const span = {
      kind: kind[n],
      turn: turn[n],
      from: from[n],
      to: to[n],
      label: text(label[n]),
      result: text(result[n]),
      row: 0,
      u0: 0,
      u1: 0,
    };
    const isShade = span.kind === SPAN.storm || span.kind === SPAN.partition;
    (isShade ? spans[lane[n]].shades : spans[lane[n]].bars).push(span);
  }
  for (const of of spans) {
    of.bars.sort((a, b) => a.from - b.from);
    const free = [];
    for (const bar of of.bars) {
      let row = free.findIndex((until) => until <= bar.from);
      if (row < 0) row = free.push(0) - 1;
      free[row] = bar.to;
      bar.row = row;
    }
    of.rows = free.length;
  }
}
buildSpans();

/** Places everything that lasts on the current layout of time. */
function placeBands() {
  for (let lane = 0; lane < laneCount; lane++) {
    for (const list of [bands[lane], spans[lane].bars, spans[lane].shades]) {
      for (const one of list) {
        one.u0 = unitAt(one.from);
        one.u1 = unitAt(one.to);
      }
    }
  }
}

function barStyle(bar) {
  if (bar.result === "ended" || bar.result === "ended well" || bar.result === "finished") return "good";
  if (bar.result === "closed" || bar.result === "killed" || bar.result === "nothing") return "shut";
  return bar.result === "open" ? "open" : "bad";
}
