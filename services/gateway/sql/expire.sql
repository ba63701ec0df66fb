-- expire_runs: Forgets runs that changed last before a moment, a bounded number at a time.
WITH old AS (
    DELETE FROM run WHERE run_key IN (
        SELECT run_key FROM run WHERE updated_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    RETURNING run_key
), progress AS (
    DELETE FROM run_progress WHERE run_key IN (SELECT run_key FROM old)
), wasted AS (
    DELETE FROM wasted_request WHERE run_key IN (SELECT run_key FROM old)
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

-- expire_label_costs: Forgets the labels' hours.
WITH old AS (
    DELETE FROM label_hour WHERE ctid = ANY (ARRAY (SELECT ctid FROM label_hour WHERE hour < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_label_values: Forgets which values counted apart.
WITH old AS (
    DELETE FROM label_value WHERE ctid = ANY (ARRAY (SELECT ctid FROM label_value WHERE day < $1::timestamptz::date LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_run_costs: Forgets what runs came to.
WITH old AS (
    DELETE FROM run_cost WHERE ctid = ANY (ARRAY (SELECT ctid FROM run_cost WHERE finished_at < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_repeats: Forgets work that was done again.
WITH old AS (
    DELETE FROM usage_repeat WHERE ctid = ANY (ARRAY (SELECT ctid FROM usage_repeat WHERE recorded_at < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_stretches: Forgets engines' time, a stretch at a time.
WITH old AS (
    DELETE FROM engine_stretch WHERE ctid = ANY (ARRAY (SELECT ctid FROM engine_stretch WHERE until < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_engines: Forgets the lives of engines that ended.
WITH old AS (
    DELETE FROM engine_life WHERE ctid = ANY (ARRAY (SELECT ctid FROM engine_life WHERE until < $1 LIMIT $2))
    RETURNING 1
)
SELECT count(*) FROM old;

-- expire_engine_usage: Forgets what named them.
WITH old AS (
    DELETE FROM engine_usage WHERE ctid = ANY (ARRAY (SELECT ctid FROM engine_usage WHERE last_at < $1 LIMIT $2))
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
