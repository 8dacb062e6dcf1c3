-- Format 2: webhooks (C7). Only adds: a replica of format 1 beside it ends
-- turns without telling anybody, and breaks nothing. Names are compared byte by
-- byte, as everywhere else, whatever the database's collation.

-- wanted: 1 done, 2 error, 4 aborted, added up.
CREATE TABLE endpoints (
    id     TEXT COLLATE "C" PRIMARY KEY,
    wanted BIGINT NOT NULL
);

-- state: 0 pending, 1 delivered, 2 failed.
-- holds: pending, and later ones of its conversation wait for it.
CREATE TABLE outbox (
    endpoint          TEXT COLLATE "C" NOT NULL,
    turn              BYTEA NOT NULL,
    conversation      TEXT COLLATE "C" NOT NULL,
    seq               BIGINT NOT NULL,
    tries             BIGINT NOT NULL,
    state             BIGINT NOT NULL,
    holds             BIGINT NOT NULL,
    owner_node        TEXT,
    owner_boot        BIGINT,
    owner_incarnation BIGINT,
    due_at            BIGINT NOT NULL,
    forget_at         BIGINT NOT NULL,
    PRIMARY KEY (endpoint, turn)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX outbox_due ON outbox (endpoint, due_at, conversation, seq) WHERE state = 0;
CREATE INDEX outbox_holds ON outbox (endpoint, conversation, seq) WHERE holds = 1;
CREATE INDEX outbox_taken ON outbox (owner_node, endpoint, turn) WHERE state = 0 AND owner_node IS NOT NULL;
CREATE INDEX outbox_old ON outbox (forget_at, endpoint, turn);

UPDATE meta SET format = 2;
