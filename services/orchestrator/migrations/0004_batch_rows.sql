-- The rows that the parts of a batch's statement are given: one array of rows is read in half the time of an array for
-- each column. A type never changes, for other versions write with it as well: another column is another type.
CREATE TYPE batch_advance AS (
    home integer, topic text, expected_offset bigint, next_offset bigint, owner_epoch bigint
);

CREATE TYPE batch_outbox AS (home integer, records bytea);

CREATE TYPE batch_sent AS (home integer, id bigint);

CREATE TYPE batch_run AS (
    run_key uuid, tenant text, run_id text, workflow text, version text, home integer, status text, request text,
    sequence integer, started_at_ms bigint, finished_at_ms bigint, output text, error text, deadline_at_ms bigint,
    redrives integer
);

CREATE TYPE batch_run_change AS (
    run_key uuid, status text, sequence integer, finished_at_ms bigint, output text, error text, deadline_at_ms bigint,
    redrives integer, version text
);

CREATE TYPE batch_step AS (
    run_key uuid, path text, kind text, phase text, attempt integer, tries integer, repairs integer, route integer,
    due_at_ms bigint, dispatched_at_ms bigint, output text, error text, usage text, sequence integer, terms text
);

CREATE TYPE batch_alarm AS (run_key uuid, home integer, due_at_ms bigint);

CREATE TYPE batch_charge AS (
    tenant text, day integer, home integer, model_calls bigint, tokens bigint, cost numeric
);

COMMENT ON COLUMN outbox.records IS
    'a byte 0xC1, then an LZ4 block of MessagePack: [[topic, partition, key, value, [[header, bytes], ...]], ...]';

-- Room for what comes: a step's row is written small, when it begins, and grows with its output. Where the new version
-- fits on the page of the old one, no index changes, and nothing is left for VACUUM to clean up there.
ALTER TABLE step SET (fillfactor = 30);
