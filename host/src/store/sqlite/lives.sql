-- Format 4: the order of a node's lives.

ALTER TABLE replicas ADD COLUMN life INTEGER NOT NULL DEFAULT 0;
