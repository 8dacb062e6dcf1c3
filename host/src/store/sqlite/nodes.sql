-- Format 3: replicas, and turns that can go on at one of them only.

CREATE TABLE replicas (
    node        TEXT PRIMARY KEY,
    boot        INTEGER NOT NULL,
    incarnation INTEGER NOT NULL,
    version     TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL,
    serving     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE turns ADD COLUMN bound TEXT;
CREATE INDEX turns_bound ON turns (bound, turn) WHERE state = 1 AND bound IS NOT NULL;
