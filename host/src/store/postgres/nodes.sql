-- Format 3: replicas, and turns that can go on at one of them only. A build that does
-- not know of this may run beside: it takes bound turns for any other.

CREATE TABLE replicas (
    node        TEXT PRIMARY KEY,
    boot        BIGINT NOT NULL,
    incarnation BIGINT NOT NULL,
    version     TEXT NOT NULL,
    started_at  BIGINT NOT NULL,
    seen_at     BIGINT NOT NULL,
    serving     BIGINT NOT NULL
) WITH (fillfactor = 50);

ALTER TABLE turns ADD COLUMN bound TEXT;
CREATE INDEX turns_bound ON turns (bound, turn) WHERE state = 1 AND bound IS NOT NULL;

UPDATE meta SET format = 3;
