-- insert_progress: Progress records as they came; one that is there already stays as it is.
INSERT INTO run_progress (run_key, sequence, body)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[])
ON CONFLICT DO NOTHING;

-- upsert_runs: One row per run; the newest sequence decides the status, whatever the order of arrival.
INSERT INTO run AS known
    (run_key, tenant, run_id, workflow, version, labels, started_at, sequence, status, running_at, updated_at)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
    $7::timestamptz[], $8::bigint[], $9::text[], $10::timestamptz[], $11::timestamptz[]
)
ON CONFLICT (run_key) DO UPDATE SET
    started_at = least(known.started_at, excluded.started_at),
    status = CASE WHEN excluded.sequence > known.sequence THEN excluded.status ELSE known.status END,
    sequence = greatest(known.sequence, excluded.sequence),
    running_at = greatest(known.running_at, excluded.running_at),
    updated_at = greatest(known.updated_at, excluded.updated_at)
WHERE excluded.sequence > known.sequence
    OR excluded.started_at < known.started_at
    OR excluded.running_at > known.running_at
    OR excluded.updated_at > known.updated_at;

-- upsert_ends: The newest end of each run: a redriven run ends again.
INSERT INTO run_end AS known (run_key, status, finished_at, body)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::bytea[])
ON CONFLICT (run_key) DO UPDATE SET
    status = excluded.status, finished_at = excluded.finished_at, body = excluded.body
WHERE excluded.finished_at > known.finished_at;

-- insert_usage: New entries of the ledger; answers null where all were new (as a rule), else the ids that were.
WITH new AS (
    INSERT INTO usage_entry (run_key, request_id, recorded_at, cost, currency, input_tokens, cached_input_tokens,
        output_tokens, reasoning_tokens, body)
    SELECT run_key, request_id, recorded_at, cost::numeric, currency, input_tokens, cached_input_tokens,
        output_tokens, reasoning_tokens, body
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bytea[]
    ) AS entry (run_key, request_id, recorded_at, cost, currency, input_tokens, cached_input_tokens,
        output_tokens, reasoning_tokens, body)
    ON CONFLICT DO NOTHING
    RETURNING request_id
)
SELECT CASE WHEN count(*) < cardinality($1::uuid[]) THEN coalesce(array_agg(request_id), '{}') END FROM new;

-- add_costs: Adds a batch's sums to the hours.
INSERT INTO cost_hour AS known
    (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, requests, failed,
     input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, cost)
SELECT hour, tenant, workflow, version, kind, subject, pool, simulated, currency, requests, failed,
    input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, cost::numeric
FROM unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[],
    $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::text[]
) AS sums (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, requests, failed,
    input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, cost)
ON CONFLICT (hour, tenant, workflow, version, kind, subject, pool, simulated, currency) DO UPDATE SET
    requests = known.requests + excluded.requests,
    failed = known.failed + excluded.failed,
    input_tokens = known.input_tokens + excluded.input_tokens,
    cached_input_tokens = known.cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = known.output_tokens + excluded.output_tokens,
    reasoning_tokens = known.reasoning_tokens + excluded.reasoning_tokens,
    busy_us = known.busy_us + excluded.busy_us,
    cost = known.cost + excluded.cost;

-- insert_definitions: Definitions are immutable: the first body of a version stays.
INSERT INTO workflow_definition (name, version, published_at, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[])
ON CONFLICT DO NOTHING;

-- upsert_aliases: What was set last holds.
INSERT INTO workflow_alias AS known (name, alias, set_at, body)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[])
ON CONFLICT (name, alias) DO UPDATE SET set_at = excluded.set_at, body = excluded.body
WHERE excluded.set_at >= known.set_at;
