// The data: columns as they stand in the page. Times are summed up once; the
// state at any event comes from the keyframe before it and the deltas since.

const raw = JSON.parse(document.getElementById("data").textContent);
const text = (n) => raw.strings[n] ?? "";
const numbered = (names) => Object.fromEntries(names.map((name, n) => [name, n]));
const KIND = numbered(raw.kinds);
const LANE = numbered(raw.laneKinds);
const FIELD = numbered(raw.fields);
const SPAN = numbered(raw.spanKinds);

const events = raw.events;
const lanes = raw.lanes;
const eventCount = events.kind.length;
const laneCount = lanes.kind.length;
const fieldCount = raw.fields.length;
const NOTHING = -1;

/** Microseconds, by event. */
const at = new Float64Array(eventCount);
for (let n = 0, sum = 0; n < eventCount; n++) at[n] = sum += events.after[n];
const endUs = Math.max(raw.endUs, eventCount ? at[eventCount - 1] : 0);
const beginUs = eventCount ? at[0] : 0;

/** Where an event's deltas begin. */
const firstDelta = new Uint32Array(eventCount + 1);
for (const n of raw.deltas.event) firstDelta[n + 1]++;
for (let n = 0; n < eventCount; n++) firstDelta[n + 1] += firstDelta[n];

const stateSize = laneCount * fieldCount;
/** Events between two keyframes: fewer than 32 MB of them are kept. */
const FRAME_EVERY = Math.max(256, Math.ceil((eventCount * stateSize * 4) / 32e6));
const frames = [];

/** A number of a text, or NOTHING. */
const valueOf = (n) => (text(n) === "" ? NOTHING : n);

function applyDeltas(state, event) {
  const { lane, field, value } = raw.deltas;
  for (let d = firstDelta[event]; d < firstDelta[event + 1]; d++) {
    state[lane[d] * fieldCount + field[d]] = valueOf(value[d]);
  }
}

function buildFrames() {
  const state = new Int32Array(stateSize).fill(NOTHING);
  const { lane, field, value } = raw.base;
  for (let d = 0; d < lane.length; d++) state[lane[d] * fieldCount + field[d]] = valueOf(value[d]);
  for (let n = 0; n < eventCount; n++) {
    if (n % FRAME_EVERY === 0) frames.push(state.slice());
    applyDeltas(state, n);
  }
  if (frames.length === 0) frames.push(state);
}
buildFrames();

/** The state after an event; -1: before the first one. */
function stateAfter(event) {
  const frame = Math.max(0, Math.floor(event / FRAME_EVERY));
  const state = frames[frame].slice();
  for (let n = frame * FRAME_EVERY; n <= event; n++) applyDeltas(state, n);
  return state;
}

const cell = (state, lane, field) => state[lane * fieldCount + field];
const cellText = (state, lane, field) => {
  const n = cell(state, lane, field);
  return n === NOTHING ? "" : text(n);
};

const labelOf = (lane) => text(lanes.label[lane]);
const lanesOf = (kind) => {
  const found = [];
  for (let lane = 0; lane < laneCount; lane++) if (lanes.kind[lane] === kind) found.push(lane);
  return found;
};

/** Events by the one that caused them. */
const effects = (() => {
  const first = new Uint32Array(eventCount + 2);
  for (const cause of events.cause) if (cause >= 0) first[cause + 2]++;
  for (let n = 0; n <= eventCount; n++) first[n + 1] += first[n];
  const all = new Uint32Array(eventCount);
  for (let n = 0; n < eventCount; n++) {
    const cause = events.cause[n];
    if (cause >= 0) all[first[cause + 1]++] = n;
  }
  return (event) => all.subarray(first[event], first[event + 1]);
})();

/** Events of each lane, its turn's included, in order. */
const laneEvents = (() => {
  const of = Array.from({ length: laneCount }, () => []);
  for (let n = 0; n < eventCount; n++) {
    of[events.lane[n]].push(n);
    const turn = events.turn[n];
    if (turn >= 0 && turn !== events.lane[n]) of[turn].push(n);
  }
  return of;
})();

/** The first place in an ascending list with a value of at least `wanted`. */
function lowerBound(list, wanted, value = (x) => x) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value(list[middle]) < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}
