-- list_runs: One page of a tenant's runs, newest first; completed is a run whose output has been read, not before.
SELECT run.run_key, run.tenant, run.run_id, run.workflow, run.version, run.labels, run.started_at, run.updated_at,
    run.sequence, stated.status, run_end.finished_at, newest.body AS progress
FROM run
LEFT JOIN run_end ON run_end.run_key = run.run_key AND run_end.finished_at >= run.running_at
LEFT JOIN run_progress AS newest ON newest.run_key = run.run_key AND newest.sequence = run.sequence
CROSS JOIN LATERAL (
    SELECT CASE WHEN run.status IN ('running', 'completed') THEN coalesce(run_end.status, 'running')
           ELSE run.status END AS status
) AS stated
WHERE run.tenant = $1
    AND ($2::text IS NULL OR run.workflow = $2)
    AND ($3::text IS NULL OR stated.status = $3)
    AND run.labels @> $4::jsonb
    AND ($5::timestamptz IS NULL OR (run.started_at, run.run_key) < ($5, $6::uuid))
ORDER BY run.started_at DESC, run.run_key DESC
LIMIT $7;

-- read_run: One run with its end; its output comes on another topic than its progress, and completed means both.
SELECT run.run_key, run.tenant, run.run_id, run.workflow, run.version, run.labels, run.started_at, run.updated_at,
    run.sequence, run.status AS progress_status, run_end.finished_at, run_end.body AS ending,
    CASE WHEN run.status IN ('running', 'completed') THEN coalesce(run_end.status, 'running')
         ELSE run.status END AS status
FROM run
LEFT JOIN run_end ON run_end.run_key = run.run_key AND run_end.finished_at >= run.running_at
WHERE run.run_key = $1;

-- read_progress: A run's progress records after a sequence, in order.
SELECT sequence, body FROM run_progress WHERE run_key = $1 AND sequence > $2 ORDER BY sequence LIMIT $3;

-- read_usage: The ledger's entries of a run.
SELECT request_id, body FROM usage_entry WHERE run_key = $1 LIMIT $2;

-- read_accepted: A request that was accepted at this door.
SELECT tenant, run_id, workflow, accepted_at FROM accepted_request WHERE run_key = $1;

-- read_costs_by_run: The newest runs that started in a period, each with its entries' sums.
SELECT newest.tenant, newest.run_id, newest.workflow, newest.version, sums.*
FROM (
    SELECT run_key, tenant, run_id, workflow, version, started_at FROM run
    WHERE started_at >= $1 AND started_at < $2 AND tenant = $3 AND ($4::text IS NULL OR workflow = $4)
    ORDER BY started_at DESC, run_key DESC LIMIT $5
) AS newest
CROSS JOIN LATERAL (
    SELECT currency, count(*) AS requests, sum(input_tokens)::bigint AS input_tokens,
        sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
        sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost) AS cost
    FROM usage_entry WHERE usage_entry.run_key = newest.run_key GROUP BY currency
) AS sums
ORDER BY newest.started_at DESC, newest.run_key DESC;

-- list_definitions: The versions of all workflows, the newest of each name first.
SELECT name, version, published_at FROM workflow_definition ORDER BY name, published_at DESC, version LIMIT $1;

-- read_definition: One version of a workflow, the newest where none is named.
SELECT name, version, published_at, body FROM workflow_definition
WHERE name = $1 AND ($2::text IS NULL OR version = $2)
ORDER BY published_at DESC, version LIMIT 1;

-- list_names: The workflows there are.
SELECT DISTINCT name FROM workflow_definition ORDER BY name LIMIT $1;

-- list_aliases: The aliases of all workflows, or of one.
SELECT name, alias, set_at, body FROM workflow_alias
WHERE $1::text IS NULL OR name = $1 ORDER BY name, alias LIMIT $2;

-- read_alias: What one alias means.
SELECT name, alias, set_at, body FROM workflow_alias WHERE name = $1 AND alias = $2;
