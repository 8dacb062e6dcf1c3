// Which events are shown, found and stepped through.

const hiddenAtFirst = new Set(["stream", "poll"]);
const filter = {
  kinds: raw.kinds.map((name) => !hiddenAtFirst.has(name)),
  query: "",
  /** 1 for every event that the query finds. */
  matches: new Uint8Array(eventCount).fill(1),
  /** 1 for every turn's lane that the query leaves. */
  turns: new Uint8Array(laneCount).fill(1),
};

/** Events that can be stepped to, in order. */
let steps = [];
/** Events whose kind is shown, found or not. */
let shown = [];

const kindCounts = (() => {
  const counts = raw.kinds.map(() => 0);
  for (const kind of events.kind) counts[kind]++;
  return counts;
})();

function applyFilter() {
  shown = [];
  for (let n = 0; n < eventCount; n++) if (filter.kinds[events.kind[n]]) shown.push(n);
  steps = filter.query ? shown.filter((n) => filter.matches[n]) : shown;
}

/** A turn's label finds just that turn; any other text is looked for everywhere. */
function search(query) {
  filter.query = query.trim().toLowerCase();
  const wanted = filter.query;
  if (!wanted) {
    filter.matches.fill(1);
    filter.turns.fill(1);
    return;
  }
  const hits = raw.strings.map((string) => string.toLowerCase().includes(wanted));
  const isLane = (lane) =>
    labelOf(lane).toLowerCase() === wanted || hits[lanes.name[lane]] || hits[lanes.about[lane]];
  const exact = lanesOf(LANE.turn).filter((lane) => labelOf(lane).toLowerCase() === wanted);
  const wantedLanes = new Uint8Array(laneCount);
  for (let lane = 0; lane < laneCount; lane++) {
    wantedLanes[lane] = exact.length ? exact.includes(lane) : isLane(lane);
  }
  filter.turns.fill(0);
  for (let n = 0; n < eventCount; n++) {
    const inText = !exact.length && (hits[events.title[n]] || hits[events.detail[n]]);
    const turn = events.turn[n];
    const found = inText || wantedLanes[events.lane[n]] || (turn >= 0 && wantedLanes[turn]);
    filter.matches[n] = found ? 1 : 0;
    if (found && turn >= 0) filter.turns[turn] = 1;
  }
}

/** The place in `steps` of an event, or of the last one before it. */
function stepOf(event) {
  const place = lowerBound(steps, event);
  return steps[place] === event ? place : Math.max(0, place - 1);
}
