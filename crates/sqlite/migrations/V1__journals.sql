-- Only `journal` is truth. `session`, `input` and `receipt` are derived from it in the same transaction, and `snapshot`
-- can be made again as long as the entries before it are kept: `windlass verify` recomputes them all.
PRAGMA application_id = 0x57494e44;
PRAGMA user_version = 1;

-- `fence` is the last one given out to any session; `reopened` counts recoveries of a lost handle.
CREATE TABLE store (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    fence INTEGER NOT NULL,
    reopened INTEGER NOT NULL
) STRICT;
INSERT INTO store VALUES (1, 0, 0);

-- `pruned`: entries up to this position are no longer kept.
CREATE TABLE session (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    fence INTEGER NOT NULL,
    head INTEGER NOT NULL,
    pruned INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    gate TEXT NOT NULL,
    held INTEGER NOT NULL,
    open_inputs INTEGER NOT NULL,
    running INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    due_at INTEGER,
    agent TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX session_pending ON session (id) WHERE pending = 1 OR due_at IS NOT NULL;

-- `body` is the record as JSON; `checksum` the first 8 bytes of BLAKE3 over (session, seq, at, body).
CREATE TABLE journal (
    session BLOB NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body TEXT NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;

-- Two writes in its life: `settled` is null while the input is open.
CREATE TABLE input (
    session BLOB NOT NULL,
    id BLOB NOT NULL CHECK (length(id) = 16),
    key TEXT,
    kind TEXT NOT NULL,
    settled TEXT,
    dead INTEGER NOT NULL,
    accepted_seq INTEGER NOT NULL,
    settled_seq INTEGER,
    PRIMARY KEY (session, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX input_key ON input (session, key, accepted_seq) WHERE key IS NOT NULL;
CREATE INDEX input_dead ON input (session, id) WHERE dead = 1;

-- `body` and `checksum` are filled in when the journal entry that holds the receipt is pruned.
CREATE TABLE receipt (
    session BLOB NOT NULL,
    run BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT,
    checksum INTEGER,
    PRIMARY KEY (session, run, sequence)
) STRICT, WITHOUT ROWID;

-- The newest two of each session; `hash` is BLAKE3 over (session, seq, body).
CREATE TABLE snapshot (
    session BLOB NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
