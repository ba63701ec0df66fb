-- tell: What other gateways' streams wait for, told when the batch is committed.
SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload;

-- insert_progress: Progress records as they came, all of them new.
INSERT INTO run_progress (run_key, sequence, body) SELECT * FROM unnest($1::batch_progress[]);

-- insert_progress_again: The same where some may be there already; those stay as they are.
INSERT INTO run_progress (run_key, sequence, body) SELECT * FROM unnest($1::batch_progress[])
ON CONFLICT DO NOTHING;

-- upsert_runs: One row per run; the newest sequence decides the status, whatever the order of arrival.
INSERT INTO run AS known
    (run_key, tenant, run_id, workflow, version, labels, started_at, sequence, status, running_at, updated_at)
SELECT run_key, tenant, run_id, workflow, version, labels, to_timestamp(started_at), sequence, status,
    to_timestamp(running_at), to_timestamp(updated_at)
FROM unnest($1::batch_run[])
ON CONFLICT (run_key) DO UPDATE SET
    started_at = least(known.started_at, excluded.started_at),
    status = CASE WHEN excluded.sequence > known.sequence THEN excluded.status ELSE known.status END,
    version = CASE WHEN excluded.sequence > known.sequence THEN excluded.version ELSE known.version END,
    sequence = greatest(known.sequence, excluded.sequence),
    running_at = greatest(known.running_at, excluded.running_at),
    updated_at = greatest(known.updated_at, excluded.updated_at)
WHERE excluded.sequence > known.sequence
    OR excluded.started_at < known.started_at
    OR excluded.running_at > known.running_at
    OR excluded.updated_at > known.updated_at;

-- upsert_ends: The newest end of each run: a redriven run ends again.
WITH ended AS (
    INSERT INTO run_end AS known (run_key, status, finished_at, body)
    SELECT run_key, status, to_timestamp(finished_at), body
    FROM unnest($1::uuid[], $2::text[], $3::float8[], $4::bytea[]) AS said (run_key, status, finished_at, body)
    ON CONFLICT (run_key) DO UPDATE SET
        status = excluded.status, finished_at = excluded.finished_at, body = excluded.body
    WHERE excluded.finished_at > known.finished_at
    RETURNING run_key
)
INSERT INTO unsettled_run (run_key) SELECT run_key FROM ended
ON CONFLICT (run_key) DO UPDATE SET since = excluded.since;

-- insert_wasted: Attempts that were in vain; of two reasons the first in order holds.
INSERT INTO wasted_request AS known (run_key, request_id, waste)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[])
ON CONFLICT (run_key, request_id) DO UPDATE SET waste = excluded.waste WHERE excluded.waste < known.waste;

-- unsettle_runs: The sums of runs that have ended are to be made again. One that is unsettled already is locked, so that
-- nobody makes them before this transaction ends; one whose sums are being made is waited for.
INSERT INTO unsettled_run (run_key)
SELECT run_key FROM run_end WHERE run_key = ANY ($1::uuid[]) ORDER BY run_key
ON CONFLICT (run_key) DO UPDATE SET since = excluded.since;

-- insert_definitions: Definitions are immutable: the first body of a version stays.
INSERT INTO workflow_definition (name, version, published_at, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[])
ON CONFLICT DO NOTHING;

-- upsert_aliases: What was set last holds.
INSERT INTO workflow_alias AS known (name, alias, set_at, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[])
ON CONFLICT (name, alias) DO UPDATE SET set_at = excluded.set_at, body = excluded.body
WHERE excluded.set_at >= known.set_at;
