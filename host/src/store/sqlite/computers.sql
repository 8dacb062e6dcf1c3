-- Format 5: the computers that tools run on. Nothing is "here".

ALTER TABLE workspaces ADD COLUMN computer TEXT;
ALTER TABLE conversations ADD COLUMN computer TEXT;
ALTER TABLE turns ADD COLUMN computer TEXT;
