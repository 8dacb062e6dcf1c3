-- Format 2: webhooks (C7). Only adds: a build of format 1 beside it ends turns
-- without telling anybody, and breaks nothing.

-- wanted: 1 done, 2 error, 4 aborted, added up.
CREATE TABLE endpoints (
    id     TEXT PRIMARY KEY,
    wanted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- state: 0 pending, 1 delivered, 2 failed.
-- holds: pending, and later ones of its conversation wait for it.
CREATE TABLE outbox (
    endpoint          TEXT NOT NULL,
    turn              BLOB NOT NULL,
    conversation      TEXT NOT NULL,
    seq               INTEGER NOT NULL,
    tries             INTEGER NOT NULL,
    state             INTEGER NOT NULL,
    holds             INTEGER NOT NULL,
    owner_node        TEXT,
    owner_boot        INTEGER,
    owner_incarnation INTEGER,
    due_at            INTEGER NOT NULL,
    forget_at         INTEGER NOT NULL,
    PRIMARY KEY (endpoint, turn)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_due ON outbox (endpoint, due_at, conversation, seq) WHERE state = 0;
CREATE INDEX outbox_holds ON outbox (endpoint, conversation, seq) WHERE holds = 1;
CREATE INDEX outbox_taken ON outbox (owner_node, endpoint, turn) WHERE state = 0 AND owner_node IS NOT NULL;
CREATE INDEX outbox_old ON outbox (forget_at, endpoint, turn);
