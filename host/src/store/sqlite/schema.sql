-- Format 1. Whatever liveness, order and fencing read is a typed column;
-- payloads (items, events) are text that nothing but a load or a reader parses.
-- Turn ids are 16 bytes, most significant first: they sort as numbers do.

CREATE TABLE meta (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    waiter_seq INTEGER NOT NULL,
    store_time INTEGER NOT NULL
) STRICT;
INSERT INTO meta (id, waiter_seq, store_time) VALUES (1, 0, 0);

CREATE TABLE workspaces (
    slug       TEXT PRIMARY KEY,
    title      TEXT,
    starred    ANY,
    cwd        TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE providers (
    id               TEXT PRIMARY KEY,
    version          INTEGER NOT NULL,
    stream_limit     INTEGER NOT NULL,
    configured_limit INTEGER NOT NULL,
    cooldown_ms      INTEGER NOT NULL,
    fair             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    id               TEXT PRIMARY KEY,
    workspace        TEXT NOT NULL,
    title            TEXT NOT NULL,
    created_at       INTEGER NOT NULL,
    last_activity_at INTEGER NOT NULL,
    provider         TEXT NOT NULL,
    model            TEXT NOT NULL,
    cwd              TEXT,
    last_seq         INTEGER NOT NULL,
    turn             BLOB,
    epoch            INTEGER NOT NULL,
    next_ordinal     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- state: 0 blocked, 1 parked, 2 streaming, 3 tools, 4 ended.
-- waiting: parked, and not yet seen to be due.
CREATE TABLE turns (
    turn              BLOB PRIMARY KEY,
    conversation      TEXT NOT NULL,
    ordinal           INTEGER NOT NULL,
    provider          TEXT NOT NULL,
    model             TEXT NOT NULL,
    state             INTEGER NOT NULL,
    waiting           INTEGER NOT NULL,
    unstarred         INTEGER NOT NULL,
    started_at        INTEGER NOT NULL,
    seq               INTEGER NOT NULL,
    due_at            INTEGER NOT NULL,
    owner_node        TEXT,
    owner_boot        INTEGER,
    owner_incarnation INTEGER,
    lease_until       INTEGER NOT NULL,
    epoch             INTEGER NOT NULL,
    step              INTEGER NOT NULL,
    items             INTEGER NOT NULL,
    restarts_empty    INTEGER NOT NULL,
    restarts_cut      INTEGER NOT NULL,
    retry_attempt     INTEGER NOT NULL,
    retry_sum_ms      INTEGER NOT NULL,
    retry_first_at    INTEGER,
    retry_message     TEXT,
    retry_code        TEXT,
    retry_cause       TEXT,
    resumes           INTEGER NOT NULL,
    abort_by          TEXT,
    abort_reason      TEXT,
    abort_at          INTEGER,
    accepted_at       INTEGER NOT NULL,
    since             INTEGER NOT NULL,
    queue_ms          INTEGER NOT NULL,
    backoff_ms        INTEGER NOT NULL,
    model_ms          INTEGER NOT NULL,
    tool_ms           INTEGER NOT NULL,
    input_tokens      INTEGER NOT NULL,
    output_tokens     INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    reasoning_tokens  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX turns_open ON turns (conversation, ordinal) WHERE state <> 4;
CREATE INDEX turns_owned ON turns (owner_node) WHERE state IN (2, 3);
CREATE INDEX turns_leased ON turns (lease_until) WHERE state IN (2, 3);
CREATE INDEX turns_streaming ON turns (provider) WHERE state = 2;
CREATE INDEX turns_line ON turns (provider, waiting, unstarred, started_at, seq) WHERE state = 1;
CREATE INDEX turns_waiting ON turns (provider, due_at) WHERE state = 1 AND waiting = 1;
CREATE INDEX turns_due ON turns (due_at) WHERE state = 1 AND waiting = 1;

CREATE TABLE markers (
    turn BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    key    TEXT PRIMARY KEY,
    digest INTEGER NOT NULL,
    turn   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    conversation TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    turn         BLOB NOT NULL,
    kind         TEXT NOT NULL,
    terminal     INTEGER NOT NULL,
    json         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_log ON events (conversation, seq);
CREATE UNIQUE INDEX events_terminal ON events (turn) WHERE terminal = 1;
CREATE UNIQUE INDEX events_start ON events (turn) WHERE kind = 'turn-start';

CREATE TABLE items (
    conversation TEXT NOT NULL,
    ordinal      INTEGER NOT NULL,
    n            INTEGER NOT NULL,
    turn         BLOB NOT NULL,
    item         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX items_place ON items (conversation, ordinal, n);

-- state: 0 asked, 1 started, 2 finished.
CREATE TABLE calls (
    turn          BLOB NOT NULL,
    step          INTEGER NOT NULL,
    n             INTEGER NOT NULL,
    call_id       TEXT NOT NULL,
    name          TEXT NOT NULL,
    input         TEXT NOT NULL,
    state         INTEGER NOT NULL,
    started_epoch INTEGER
) STRICT;
CREATE UNIQUE INDEX calls_place ON calls (turn, step, n);

CREATE TABLE segments (
    n                INTEGER PRIMARY KEY,
    turn             BLOB NOT NULL,
    epoch            INTEGER NOT NULL,
    step             INTEGER NOT NULL,
    text_offset      INTEGER NOT NULL,
    text             TEXT NOT NULL,
    reasoning_offset INTEGER NOT NULL,
    reasoning        TEXT NOT NULL
) STRICT;
CREATE INDEX segments_turn ON segments (turn);

CREATE TABLE releases (
    provider TEXT NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX releases_at ON releases (provider, at);
