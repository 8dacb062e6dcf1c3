-- Format 4: the order of a node's lives. A build that does not know of this may run
-- beside: its own boots are taken for latest, as ever.

ALTER TABLE replicas ADD COLUMN life BIGINT NOT NULL DEFAULT 0;

UPDATE meta SET format = 4;
