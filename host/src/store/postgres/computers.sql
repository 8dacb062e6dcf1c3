-- Format 5: the computers that tools run on. Nothing is "here". A build that does
-- not know of this may run beside: it runs every tool on its own computer, so name
-- none before each replica runs a newer build. `installation` tells commands of
-- these replicas on a computer from those of others.

ALTER TABLE workspaces ADD COLUMN computer TEXT;
ALTER TABLE conversations ADD COLUMN computer TEXT;
ALTER TABLE turns ADD COLUMN computer TEXT;
ALTER TABLE meta ADD COLUMN installation UUID NOT NULL DEFAULT gen_random_uuid();

UPDATE meta SET format = 5;
