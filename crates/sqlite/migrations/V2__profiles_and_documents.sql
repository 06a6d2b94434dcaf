-- What a session was told about itself, and small documents that belong to no session.
PRAGMA user_version = 2;

ALTER TABLE store ADD COLUMN probes INTEGER NOT NULL DEFAULT 0;

-- Changed only with the records that say so, so that these indexes cost an append nothing. `labels` is a JSON object.
ALTER TABLE session ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN tenant TEXT;
ALTER TABLE session ADD COLUMN name TEXT;
ALTER TABLE session ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE session ADD COLUMN keep_alive INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN policy TEXT;
CREATE INDEX session_tenant ON session (tenant, id);
CREATE INDEX session_name ON session (name, id) WHERE name IS NOT NULL;

-- The first entry tells when a session was created. Where it is no longer kept, nothing does: 0.
UPDATE session SET created_at = coalesce((SELECT at FROM journal WHERE session = session.id AND seq = 1), 0);
-- Snapshots of before do not tell it either; where the whole journal is kept, they are made again.
DELETE FROM snapshot WHERE session IN (SELECT id FROM session WHERE pruned = 0);

-- `checksum` is the first 8 bytes of BLAKE3 over all the other columns.
CREATE TABLE document (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
