-- read_costs: The hours' sums, by whichever of the named columns are asked for; currencies and simulated stay apart.
SELECT
    CASE WHEN 'tenant' = ANY($1::text[]) THEN tenant END AS tenant,
    CASE WHEN 'workflow' = ANY($1) THEN workflow END AS workflow,
    CASE WHEN 'version' = ANY($1) THEN version END AS version,
    CASE WHEN 'kind' = ANY($1) THEN kind END AS kind,
    CASE WHEN 'model' = ANY($1) THEN subject END AS model,
    CASE WHEN 'pool' = ANY($1) THEN pool END AS pool,
    CASE WHEN 'lane' = ANY($1) THEN lane END AS lane,
    CASE WHEN 'engine' = ANY($1) THEN engine END AS engine,
    CASE WHEN 'step' = ANY($1) THEN step END AS step,
    CASE WHEN 'gpu_type' = ANY($1) THEN gpu_type END AS gpu_type,
    CASE WHEN 'day' = ANY($1) THEN to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS day,
    CASE WHEN 'hour' = ANY($1) THEN to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00:00"Z"') END AS hour,
    simulated, currency, sum(requests)::bigint AS requests, sum(failed)::bigint AS failed,
    sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
    (sum(busy_us) / 1000000.0)::double precision AS busy_seconds, sum(gpu_ns) / 1000000000.0 AS gpu_seconds,
    sum(cost) AS cost, sum(wasted_retries) AS wasted_retries, sum(wasted_abandoned) AS wasted_abandoned,
    sum(wasted_failed) AS wasted_failed
FROM cost_hour
WHERE cost_hour.hour >= $2 AND cost_hour.hour < $3 AND ($4::text IS NULL OR cost_hour.tenant = $4)
    AND ($5::text IS NULL OR cost_hour.workflow = $5)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, simulated, currency
ORDER BY cost DESC, requests DESC, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, simulated, currency
LIMIT $6 OFFSET $7;

-- read_label_costs: The same by the values of one label.
SELECT value AS label,
    CASE WHEN 'tenant' = ANY($1::text[]) THEN tenant END AS tenant,
    CASE WHEN 'workflow' = ANY($1) THEN workflow END AS workflow,
    CASE WHEN 'version' = ANY($1) THEN version END AS version,
    CASE WHEN 'kind' = ANY($1) THEN kind END AS kind,
    CASE WHEN 'model' = ANY($1) THEN subject END AS model,
    CASE WHEN 'pool' = ANY($1) THEN pool END AS pool,
    CASE WHEN 'gpu_type' = ANY($1) THEN gpu_type END AS gpu_type,
    CASE WHEN 'day' = ANY($1) THEN to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS day,
    CASE WHEN 'hour' = ANY($1) THEN to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00:00"Z"') END AS hour,
    simulated, currency, sum(requests)::bigint AS requests, sum(failed)::bigint AS failed,
    sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
    sum(output_tokens)::bigint AS output_tokens, sum(reasoning_tokens)::bigint AS reasoning_tokens,
    (sum(busy_us) / 1000000.0)::double precision AS busy_seconds, sum(gpu_ns) / 1000000000.0 AS gpu_seconds,
    sum(cost) AS cost, sum(wasted_retries) AS wasted_retries, sum(wasted_abandoned) AS wasted_abandoned,
    sum(wasted_failed) AS wasted_failed
FROM label_hour
WHERE label_hour.label = $8 AND label_hour.hour >= $2 AND label_hour.hour < $3
    AND ($4::text IS NULL OR label_hour.tenant = $4) AND ($5::text IS NULL OR label_hour.workflow = $5)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, simulated, currency
ORDER BY cost DESC, requests DESC, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, simulated, currency
LIMIT $6 OFFSET $7;

-- read_run_costs: What the runs that ended in a period came to, by what belongs to a whole run.
SELECT
    CASE WHEN $7::text IS NOT NULL THEN labels->>$7 END AS label,
    CASE WHEN 'tenant' = ANY($1::text[]) THEN tenant END AS tenant,
    CASE WHEN 'workflow' = ANY($1) THEN workflow END AS workflow,
    CASE WHEN 'version' = ANY($1) THEN version END AS version,
    CASE WHEN 'day' = ANY($1) THEN to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS day,
    CASE WHEN 'hour' = ANY($1) THEN to_char(finished_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00:00"Z"') END AS hour,
    simulated, currency,
    count(*) FILTER (WHERE status = 'completed') AS runs_completed,
    count(*) FILTER (WHERE status <> 'completed') AS runs_failed,
    coalesce(sum(cost) FILTER (WHERE status = 'completed'), 0) AS completed_cost,
    percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY model_calls) AS calls,
    max(model_calls) AS calls_max
FROM run_cost
WHERE finished_at >= $2 AND finished_at < $3 AND ($4::text IS NULL OR tenant = $4)
    AND ($5::text IS NULL OR workflow = $5) AND ($7 IS NULL OR labels ? $7)
GROUP BY 1, 2, 3, 4, 5, 6, simulated, currency
LIMIT $6;

-- read_engine_time: What the engines' time came to in a period, by pool and accelerator.
SELECT pool, gpu_type, simulated, currency, count(DISTINCT engine_session) AS sessions,
    sum(ns::numeric * gpus) / 3600000000000.0 AS gpu_hours,
    sum(busy_ns::numeric * gpus) / 3600000000000.0 AS busy_gpu_hours,
    sum(total) AS total, sum(idle) AS idle, sum(attributed) AS attributed, sum(lost) AS lost,
    sum(total - idle - attributed - lost) AS pending, sum(energy_joules) AS energy_joules
FROM engine_stretch
WHERE until >= $1 AND until < $2
GROUP BY pool, gpu_type, simulated, currency
ORDER BY pool, gpu_type, simulated, currency;

-- read_lives: The lives of engines that touch a period, with the usage that names them; and what names no known life.
SELECT coalesce(life.engine_session, used.engine_session) AS engine_session, life.engine, life.pool, life.simulated,
    life.gpu_type, life.gpus, life.price_per_hour, life.currency, life.since, life.until, life.stretches,
    life.last_sequence, life.stretch_ns_max, life.ns, life.total, life.idle, life.attributed, life.lost, life.pending,
    life.closed, coalesce(used.requests, 0) AS usage_requests, coalesce(used.cost, 0) AS usage_cost,
    coalesce(used.repeated_requests, 0) AS repeated_requests, coalesce(used.repeated_cost, 0) AS repeated_cost,
    used.last_at AS usage_last_at
FROM engine_life AS life
FULL JOIN engine_usage AS used USING (engine_session)
WHERE coalesce(life.until, used.last_at) >= $1 AND coalesce(life.since, used.last_at) < $2
ORDER BY coalesce(life.since, used.last_at), 1
LIMIT $3;

-- read_pace: What requests of each pool and lane took of late.
SELECT pool, lane, simulated, currency, sum(requests)::bigint AS requests, sum(gpu_ns)::numeric AS gpu_ns,
    sum(cost) AS cost
FROM cost_hour
WHERE hour >= $1 AND kind = 'inference' AND lane <> ''
GROUP BY pool, lane, simulated, currency;

-- read_entries: The ledger's entries of a period.
SELECT body FROM usage_entry
WHERE recorded_at >= $1 AND recorded_at < $2;

-- read_accounts: The engines' accounts of a period, a stretch at a time.
SELECT body FROM engine_stretch WHERE until >= $1 AND until < $2 ORDER BY engine_session, sequence;
