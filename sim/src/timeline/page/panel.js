// The panel: an event, what it changed, and the state at that moment. Texts
// enter the page as texts only, never as markup.

const panel = document.getElementById("panel");

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const kindChip = (kind) => {
  const name = raw.kinds[kind];
  const mark = make("span", `mark ${kind === KIND.fault ? "diamond" : kind === KIND.life ? "round" : ""}`);
  mark.style.color = `var(--${name})`;
  return make("span", "chip muted", mark, name);
};

function jumpTo(event, words) {
  const button = make("button", "link", words);
  button.type = "button";
  button.addEventListener("click", () => select(event, { unhide: true }));
  return button;
}

const eventName = (n) => `${labelOf(events.lane[n])}: ${text(events.title[n])}`;

const FIELD_NAMES = { running: "in flight", boot: "life", attempt: "try" };
function fieldName(lane, field) {
  if (field === FIELD.running && lanes.kind[lane] === LANE.computer) return "commands running";
  return FIELD_NAMES[raw.fields[field]] ?? raw.fields[field];
}

function shownValue(field, value, now) {
  if (value === "") return "none";
  if (field !== FIELD.due) return value;
  const due = Number(value);
  return due > now ? `in ${lasting(due - now)}` : "now";
}

/** What differs between two states, by lane. */
function changesBetween(before, after) {
  const changes = [];
  for (let place = 0; place < stateSize; place++) {
    if (before[place] === after[place]) continue;
    const lane = Math.floor(place / fieldCount);
    changes.push({ lane, field: place % fieldCount, old: before[place], value: after[place] });
  }
  return changes;
}

const cellOrEmpty = (n) => (n === NOTHING ? "" : text(n));

function changeItem({ lane, field, old, value }, now) {
  return make(
    "li",
    "",
    `${labelOf(lane)} ${fieldName(lane, field)} `,
    old === NOTHING ? null : make("span", "old", shownValue(field, cellOrEmpty(old), now)),
    old === NOTHING ? "" : " → ",
    make("span", "new", shownValue(field, cellOrEmpty(value), now)),
  );
}

function renderPanel() {
  const event = selection.event;
  if (event === NOTHING) {
    panel.replaceChildren(make("p", "muted", "No event is shown."));
    return;
  }
  const step = stepOf(event);
  const previous = step > 0 ? steps[step - 1] : NOTHING;
  const before = stateAfter(previous);
  const after = stateAfter(event);
  panel.replaceChildren(
    ...eventPart(event, previous),
    ...changesPart(event, changesBetween(before, after)),
    ...turnsPart(event, before, after),
    ...providersPart(event, before, after),
    ...replicasPart(before, after),
  );
}

function eventPart(event, previous) {
  const turn = events.turn[event];
  const lane = events.lane[event];
  const since = previous === NOTHING ? "" : `, +${lasting(at[event] - at[previous])}`;
  const about = turn >= 0 && turn !== lane ? ` · ${labelOf(turn)}` : "";
  const title = make("p", "title", text(events.title[event]));
  title.id = "event-title";
  title.setAttribute("aria-live", "polite");
  const detail = text(events.detail[event]);
  const parts = [
    make("div", "bar", kindChip(events.kind[event]), make("span", "muted", `${labelOf(lane)}${about}`)),
    title,
    make("p", "muted mono", `${clock(at[event])}${since} · ${wall(at[event])}`),
  ];
  if (turn >= 0) parts.push(make("p", "muted mono", `${labelOf(turn)} is ${text(lanes.name[turn])}`));
  if (detail) parts.push(make("pre", "", detail));
  const cause = events.cause[event];
  if (cause >= 0) parts.push(make("div", "", make("span", "muted", "because of "), jumpTo(cause, eventName(cause))));
  const came = [...effects(event).subarray(0, 6)];
  if (came.length) {
    const list = make("ul", "", ...came.map((n) => make("li", "", jumpTo(n, eventName(n)))));
    parts.push(make("div", "", make("span", "muted", "led to "), list));
  }
  return parts;
}

const MOST_CHANGES = 40;

function changesPart(event, changes) {
  const parts = [make("h2", "", "What changed")];
  if (changes.length === 0) return [...parts, make("p", "muted", "Nothing that is kept.")];
  const items = changes.slice(0, MOST_CHANGES).map((change) => changeItem(change, at[event]));
  parts.push(make("ul", "", ...items));
  if (changes.length > MOST_CHANGES) parts.push(make("p", "muted", `and ${changes.length - MOST_CHANGES} more`));
  return parts;
}

/** A table; a cell is [text, changed] or [text, changed, colour]. */
function table(heads, lines) {
  const head = make("tr", "", ...heads.map((words) => make("th", "", words)));
  const body = lines.map(({ cells, isSubject }) =>
    make(
      "tr",
      isSubject ? "subject" : "",
      ...cells.map(([words, changed, colour]) => {
        const td = make("td", changed ? "changed" : "");
        if (colour) {
          const dot = make("span", "dot");
          dot.style.background = `var(--${colour})`;
          td.append(dot);
        }
        td.append(words);
        return td;
      }),
    ),
  );
  return make("table", "", make("thead", "", head), make("tbody", "", ...body));
}

const turnLanes = lanesOf(LANE.turn);
const MOST_TURNS = 60;

function turnStyle(state, lane, now) {
  const name = cellText(state, lane, FIELD.state);
  const due = Number(cellText(state, lane, FIELD.due) || 0);
  return name === "parked" && due > now ? "retry" : name;
}

function turnsPart(event, before, after) {
  const now = at[event];
  const lines = [];
  const endedBy = {};
  let known = 0;
  let more = 0;
  for (const lane of turnLanes) {
    const state = cellText(after, lane, FIELD.state);
    if (!state) continue;
    known++;
    const isSubject = events.turn[event] === lane || events.lane[event] === lane;
    const base = lane * fieldCount;
    let changed = false;
    for (let f = 0; f < fieldCount && !changed; f++) changed = before[base + f] !== after[base + f];
    if (state === "ended") {
      const how = cellText(after, lane, FIELD.terminal).split(":")[0] || "ended";
      endedBy[how] = (endedBy[how] ?? 0) + 1;
      if (!isSubject && !changed) continue;
    }
    if (lines.length >= MOST_TURNS && !isSubject && !changed) more++;
    else lines.push({ isSubject, cells: turnCells(lane, before, after, now) });
  }
  const ended = Object.entries(endedBy).map(([how, count]) => `${count} ${how}`);
  const summary = `${known} so far${ended.length ? `; ended: ${ended.join(", ")}` : ""}`;
  const parts = [make("h2", "", "Turns "), make("p", "muted", summary)];
  if (lines.length) parts.push(table(["turn", "state", "step", "try", "owner", "due"], lines));
  if (more) parts.push(make("p", "muted", `and ${more} more open ones`));
  return parts;
}

function turnCells(lane, before, after, now) {
  const value = (field) => cellText(after, lane, field);
  const changed = (field) => cell(before, lane, field) !== cell(after, lane, field);
  const style = turnStyle(after, lane, now);
  const ended = value(FIELD.state) === "ended";
  const name = ended ? value(FIELD.terminal) || "ended" : STATE_NAMES[style] || style;
  const due = value(FIELD.due);
  return [
    [labelOf(lane), false],
    [name, changed(FIELD.state) || changed(FIELD.terminal), ended ? name.split(":")[0] : style],
    [value(FIELD.step), changed(FIELD.step)],
    [value(FIELD.attempt), changed(FIELD.attempt)],
    [value(FIELD.owner), changed(FIELD.owner)],
    [due ? shownValue(FIELD.due, due, now) : "", changed(FIELD.due)],
  ];
}

/** How many turns of a provider stream, wait, and wait for their time. */
function lineOf(provider, state, now) {
  const line = { streaming: 0, waiting: 0, later: 0 };
  for (const lane of turnLanes) {
    if (cellText(state, lane, FIELD.provider) !== labelOf(provider)) continue;
    const style = turnStyle(state, lane, now);
    if (style === "streaming") line.streaming++;
    if (style === "parked") line.waiting++;
    if (style === "retry") line.later++;
  }
  return line;
}

function providersPart(event, before, after) {
  const providers = lanesOf(LANE.provider);
  if (providers.length === 0) return [];
  const lines = providers.map((lane) => {
    const [was, is] = [lineOf(lane, before, at[event]), lineOf(lane, after, at[event])];
    const changed = (field) => cell(before, lane, field) !== cell(after, lane, field);
    return {
      isSubject: events.lane[event] === lane,
      cells: [
        [labelOf(lane), false],
        [cellText(after, lane, FIELD.limit), changed(FIELD.limit)],
        [String(is.streaming), was.streaming !== is.streaming],
        [cellText(after, lane, FIELD.running) || "0", changed(FIELD.running)],
        [String(is.waiting), was.waiting !== is.waiting],
        [String(is.later), was.later !== is.later],
      ],
    };
  });
  return [
    make("h2", "", "Providers"),
    table(["provider", "limit", "stream", "in flight", "queued", "later"], lines),
  ];
}

function replicasPart(before, after) {
  const replicas = lanesOf(LANE.replica);
  const owned = (lane, state) =>
    turnLanes.filter((turn) => cellText(state, turn, FIELD.owner) === labelOf(lane)).length;
  const lines = replicas.map((lane) => {
    const changed = (field) => cell(before, lane, field) !== cell(after, lane, field);
    const life = cellText(after, lane, FIELD.state);
    return {
      cells: [
        [labelOf(lane), false],
        [life, changed(FIELD.state), life],
        [String(owned(lane, after)), owned(lane, before) !== owned(lane, after)],
        [cellText(after, lane, FIELD.boot), changed(FIELD.boot)],
      ],
    };
  });
  return [make("h2", "", "Replicas"), table(["replica", "life", "owns", "boot"], lines)];
}
