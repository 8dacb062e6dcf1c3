-- Format 1. The tables of the SQLite store, in PostgreSQL's words. Numbers,
-- times, flags and codes are BIGINT; what people, models and providers say is
-- BYTEA in UTF-8, because TEXT cannot hold every character; names of ours and
-- JSON are TEXT. Turn ids are 16 bytes, most significant first.

CREATE TABLE meta (
    id     BIGINT PRIMARY KEY CHECK (id = 1),
    format BIGINT NOT NULL,
    -- The oldest build that may run beside this schema.
    oldest BIGINT NOT NULL
);
INSERT INTO meta (id, format, oldest) VALUES (1, 1, 1);

CREATE SEQUENCE waiter_seq;

CREATE TABLE workspaces (
    slug       TEXT PRIMARY KEY,
    title      BYTEA,
    starred    BIGINT,
    cwd        BYTEA,
    created_at BIGINT NOT NULL
);

CREATE TABLE providers (
    id               TEXT PRIMARY KEY,
    version          BIGINT NOT NULL,
    stream_limit     BIGINT NOT NULL,
    configured_limit BIGINT NOT NULL,
    cooldown_ms      BIGINT NOT NULL,
    fair             BIGINT NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE conversations (
    id               TEXT PRIMARY KEY,
    workspace        TEXT NOT NULL,
    title            BYTEA NOT NULL,
    created_at       BIGINT NOT NULL,
    last_activity_at BIGINT NOT NULL,
    provider         TEXT NOT NULL,
    model            BYTEA NOT NULL,
    cwd              BYTEA,
    last_seq         BIGINT NOT NULL,
    turn             BYTEA,
    epoch            BIGINT NOT NULL,
    next_ordinal     BIGINT NOT NULL
) WITH (fillfactor = 80);

CREATE INDEX conversations_workspace ON conversations (workspace);

-- state: 0 blocked, 1 parked, 2 streaming, 3 tools, 4 ended.
-- waiting: parked, and not yet seen to be due.
CREATE TABLE turns (
    turn              BYTEA PRIMARY KEY,
    conversation      TEXT NOT NULL,
    ordinal           BIGINT NOT NULL,
    provider          TEXT NOT NULL,
    model             BYTEA NOT NULL,
    state             BIGINT NOT NULL,
    waiting           BIGINT NOT NULL,
    unstarred         BIGINT NOT NULL,
    started_at        BIGINT NOT NULL,
    seq               BIGINT NOT NULL,
    due_at            BIGINT NOT NULL,
    owner_node        TEXT,
    owner_boot        BIGINT,
    owner_incarnation BIGINT,
    lease_until       BIGINT NOT NULL,
    epoch             BIGINT NOT NULL,
    step              BIGINT NOT NULL,
    items             BIGINT NOT NULL,
    restarts_empty    BIGINT NOT NULL,
    restarts_cut      BIGINT NOT NULL,
    retry_attempt     BIGINT NOT NULL,
    retry_sum_ms      BIGINT NOT NULL,
    retry_first_at    BIGINT,
    retry_message     BYTEA,
    retry_code        BYTEA,
    retry_cause       BYTEA,
    resumes           BIGINT NOT NULL,
    abort_by          BYTEA,
    abort_reason      BYTEA,
    abort_at          BIGINT,
    accepted_at       BIGINT NOT NULL,
    since             BIGINT NOT NULL,
    queue_ms          BIGINT NOT NULL,
    backoff_ms        BIGINT NOT NULL,
    model_ms          BIGINT NOT NULL,
    tool_ms           BIGINT NOT NULL,
    input_tokens      BIGINT NOT NULL,
    output_tokens     BIGINT NOT NULL,
    cached_tokens     BIGINT NOT NULL,
    reasoning_tokens  BIGINT NOT NULL
) WITH (fillfactor = 80);

-- No index on the lease: a renewal changes nothing that is indexed, and what
-- is owned is as few rows as there are slots and running commands.
CREATE INDEX turns_open ON turns (conversation, ordinal) WHERE state <> 4;
CREATE INDEX turns_owned ON turns (owner_node) WHERE state IN (2, 3);
CREATE INDEX turns_streaming ON turns (provider) WHERE state = 2;
CREATE INDEX turns_line ON turns (provider, waiting, unstarred, started_at, seq) WHERE state = 1;
CREATE INDEX turns_waiting ON turns (provider, due_at) WHERE state = 1 AND waiting = 1;
CREATE INDEX turns_due ON turns (due_at) WHERE state = 1 AND waiting = 1;

CREATE TABLE markers (
    turn BYTEA PRIMARY KEY
);

CREATE TABLE keys (
    key    BYTEA PRIMARY KEY,
    digest BIGINT NOT NULL,
    turn   BYTEA NOT NULL
);

CREATE TABLE events (
    conversation TEXT NOT NULL,
    seq          BIGINT NOT NULL,
    turn         BYTEA NOT NULL,
    kind         TEXT NOT NULL,
    terminal     BIGINT NOT NULL,
    json         TEXT NOT NULL,
    PRIMARY KEY (conversation, seq)
);
CREATE UNIQUE INDEX events_terminal ON events (turn) WHERE terminal = 1;
CREATE UNIQUE INDEX events_start ON events (turn) WHERE kind = 'turn-start';

CREATE TABLE items (
    conversation TEXT NOT NULL,
    ordinal      BIGINT NOT NULL,
    n            BIGINT NOT NULL,
    turn         BYTEA NOT NULL,
    item         TEXT NOT NULL,
    PRIMARY KEY (conversation, ordinal, n)
);

-- state: 0 asked, 1 started, 2 finished.
CREATE TABLE calls (
    turn          BYTEA NOT NULL,
    step          BIGINT NOT NULL,
    n             BIGINT NOT NULL,
    call_id       BYTEA NOT NULL,
    name          BYTEA NOT NULL,
    input         BYTEA NOT NULL,
    state         BIGINT NOT NULL,
    started_epoch BIGINT,
    PRIMARY KEY (turn, step, n)
);

-- Written often and dropped soon: cleaned before it bloats.
CREATE TABLE segments (
    n                BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    turn             BYTEA NOT NULL,
    epoch            BIGINT NOT NULL,
    step             BIGINT NOT NULL,
    text_offset      BIGINT NOT NULL,
    text             BYTEA NOT NULL,
    reasoning_offset BIGINT NOT NULL,
    reasoning        BYTEA NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX segments_turn ON segments (turn);

CREATE TABLE releases (
    provider TEXT NOT NULL,
    at       BIGINT NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX releases_at ON releases (provider, at);
CREATE INDEX releases_old ON releases (at);
