-- take_unsettled: Runs that have been unsettled for a while, and whose sums are to be made; those of others are left to them.
WITH taken AS (
    DELETE FROM unsettled_run WHERE run_key IN (
        SELECT run_key FROM unsettled_run WHERE since <= now() - $2::interval LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    RETURNING run_key
)
SELECT run_key, status FROM taken JOIN run_end USING (run_key);

-- changed_waste: The entries of ended runs whose waste is not as it should be: what failed or was replaced, was
-- abandoned, or belongs to a run that did not complete.
SELECT entry.run_key, entry.request_id, entry.waste AS was, due.waste, entry.body
FROM unnest($1::uuid[], $2::text[]) AS ended (run_key, status)
JOIN usage_entry AS entry ON entry.run_key = ended.run_key
LEFT JOIN wasted_request ON wasted_request.run_key = entry.run_key AND wasted_request.request_id = entry.request_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN wasted_request.waste IS NOT NULL THEN wasted_request.waste
                WHEN entry.failed THEN 1 WHEN ended.status <> 'completed' THEN 3 ELSE 0 END AS waste
) AS due
WHERE entry.waste <> due.waste;

-- set_waste: Notes what the entries are counted as.
UPDATE usage_entry AS entry SET waste = due.waste
FROM unnest($1::uuid[], $2::uuid[], $3::smallint[]) AS due (run_key, request_id, waste)
WHERE entry.run_key = due.run_key AND entry.request_id = due.request_id;

-- add_waste: Moves costs between the hours' columns of waste.
UPDATE cost_hour AS known SET
    wasted_retries = known.wasted_retries + moved.retries::numeric,
    wasted_abandoned = known.wasted_abandoned + moved.abandoned::numeric,
    wasted_failed = known.wasted_failed + moved.failed::numeric
FROM unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[]
) AS moved (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type,
    retries, abandoned, failed)
WHERE known.hour = moved.hour AND known.tenant = moved.tenant AND known.workflow = moved.workflow
    AND known.version = moved.version AND known.kind = moved.kind AND known.subject = moved.subject
    AND known.pool = moved.pool AND known.simulated = moved.simulated AND known.currency = moved.currency
    AND known.lane = moved.lane AND known.engine = moved.engine AND known.step = moved.step
    AND known.gpu_type = moved.gpu_type;

-- add_label_waste: The same of the labels' hours.
UPDATE label_hour AS known SET
    wasted_retries = known.wasted_retries + moved.retries::numeric,
    wasted_abandoned = known.wasted_abandoned + moved.abandoned::numeric,
    wasted_failed = known.wasted_failed + moved.failed::numeric
FROM unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[]
) AS moved (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, label, value,
    retries, abandoned, failed)
WHERE known.label = moved.label AND known.hour = moved.hour AND known.tenant = moved.tenant
    AND known.workflow = moved.workflow AND known.version = moved.version AND known.kind = moved.kind
    AND known.subject = moved.subject AND known.pool = moved.pool AND known.simulated = moved.simulated
    AND known.currency = moved.currency AND known.gpu_type = moved.gpu_type AND known.value = moved.value;

-- settle_runs: What ended runs came to, in the currency that most of their cost is in; made anew, so that a run that is
-- settled again counts once.
INSERT INTO run_cost AS known (run_key, tenant, workflow, version, labels, status, finished_at, simulated,
    currency, model_calls, cost, wasted)
SELECT run.run_key, run.tenant, run.workflow, run.version, run.labels, run_end.status, run_end.finished_at,
    coalesce(whole.simulated, false), coalesce(whole.currency, 'USD'), coalesce(whole.model_calls, 0),
    coalesce(whole.cost, 0), coalesce(whole.wasted, 0)
FROM run JOIN run_end USING (run_key) LEFT JOIN LATERAL (  -- by run: joined as a whole, each run would meet all others
    SELECT currency, cost, wasted, (sum(model_calls) OVER ())::bigint AS model_calls,
        bool_or(simulated) OVER () AS simulated
    FROM (
        SELECT entry.currency, count(*) FILTER (WHERE entry.model_call) AS model_calls,
            bool_or(entry.simulated) AS simulated, sum(entry.cost) AS cost,
            sum(entry.cost) FILTER (WHERE entry.waste <> 0) AS wasted
        FROM usage_entry AS entry WHERE entry.run_key = run.run_key
        GROUP BY entry.currency
    ) AS sums
    ORDER BY cost DESC, currency LIMIT 1
) AS whole ON true
WHERE run.run_key = ANY ($1::uuid[])
ON CONFLICT (run_key) DO UPDATE SET
    status = excluded.status, finished_at = excluded.finished_at, simulated = excluded.simulated,
    currency = excluded.currency, model_calls = excluded.model_calls, cost = excluded.cost,
    wasted = excluded.wasted;
