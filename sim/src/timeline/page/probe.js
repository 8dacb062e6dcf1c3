// Measures the page itself, on request (#probe): how long it took to open, to
// step and to draw. What it finds stands in the page as JSON.

function probe() {
  const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1] ?? 0;
  const timed = (work) => {
    const begin = performance.now();
    work();
    return performance.now() - begin;
  };
  const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const jumps = 200;
  const seeks = [];
  for (let n = 0; n < jumps; n++) {
    const event = steps[Math.floor(((n * 7919) % jumps) * (steps.length / jumps))];
    seeks.push(timed(() => select(event)));
  }
  const frames = [];
  const ruler = () => clocks(tickUnits().map(timeAt));
  const runsBack = (words) => words.some((later, n) => n > 0 && later.padStart(16) < words[n - 1].padStart(16));
  let rulersBack = 0;
  for (const count of [Infinity, 4000, 400, 60]) {
    if (count === Infinity) fit();
    else zoomTo(steps[steps.length >> 1], count);
    for (let n = 0; n < 15; n++) frames.push(timed(draw));
    rulersBack += runsBack(ruler());
  }
  fit();
  press("Home");
  const walked = [];
  const most = Math.min(steps.length - 1, 300);
  for (let n = 0; n < most; n++) walked.push(timed(() => press("ArrowRight")));
  const afterWalk = stepOf(selection.event);
  press("End");
  const found = {
    events: eventCount,
    steps: steps.length,
    lanes: laneCount,
    rulersBack,
    beyondTheWindow: document.documentElement.scrollWidth - innerWidth,
    chart: byId("canvas").clientHeight,
    openedMs: Math.round(openedMs),
    seekMs: { median: median(seeks), most: Math.max(...seeks) },
    frameMs: { median: median(frames), most: Math.max(...frames) },
    stepMs: { median: median(walked), most: Math.max(...walked) },
    walked: afterWalk,
    atLast: selection.event === steps[steps.length - 1],
  };
  const node = make("script", "", JSON.stringify(found));
  node.type = "application/json";
  node.id = "probed";
  document.body.append(node);
}
