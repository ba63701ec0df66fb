-- expire_runs: Forgets runs that changed last before a moment, a bounded number at a time.
WITH old AS (
    DELETE FROM run WHERE run_key IN (
        SELECT run_key FROM run WHERE updated_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    RETURNING run_key
), progress AS (
    DELETE FROM run_progress WHERE run_key IN (SELECT run_key FROM old)
), ends AS (
    DELETE FROM run_end WHERE run_key IN (SELECT run_key FROM old)
)
SELECT count(*) FROM old;

-- expire_usage: Forgets ledger entries, a bounded number at a time.
WITH old AS (
    DELETE FROM usage_entry WHERE ctid = ANY (ARRAY (SELECT ctid FROM usage_entry WHERE recorded_at < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_costs: Forgets the ledger's hours.
WITH old AS (
    DELETE FROM cost_hour WHERE ctid = ANY (ARRAY (SELECT ctid FROM cost_hour WHERE hour < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_accepted: Forgets what was accepted at the door.
WITH old AS (
    DELETE FROM accepted_request
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM accepted_request WHERE accepted_at < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_keys: Forgets idempotency keys.
WITH old AS (
    DELETE FROM idempotency_key
    WHERE ctid = ANY (ARRAY (SELECT ctid FROM idempotency_key WHERE accepted_at < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;
