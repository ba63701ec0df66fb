-- insert_usage: Entries of the ledger, all of them new.
INSERT INTO usage_entry (run_key, request_id, recorded_at, cost, currency, input_tokens, cached_input_tokens,
    output_tokens, reasoning_tokens, failed, model_call, simulated, engine_session, body)
SELECT run_key, request_id, to_timestamp(recorded_at), cost::numeric, currency, input_tokens, cached_input_tokens,
    output_tokens, reasoning_tokens, failed, model_call, simulated, engine_session, body
FROM unnest($1::batch_usage[]);

-- insert_usage_again: The same where some may be there already; answers the ids of those that were new.
INSERT INTO usage_entry (run_key, request_id, recorded_at, cost, currency, input_tokens, cached_input_tokens,
    output_tokens, reasoning_tokens, failed, model_call, simulated, engine_session, body)
SELECT run_key, request_id, to_timestamp(recorded_at), cost::numeric, currency, input_tokens, cached_input_tokens,
    output_tokens, reasoning_tokens, failed, model_call, simulated, engine_session, body
FROM unnest($1::batch_usage[])
ON CONFLICT DO NOTHING
RETURNING request_id;

-- insert_repeats: Work done again in another life of an engine than the entry's; answers the ids that are new here.
INSERT INTO usage_repeat (request_id, engine_session, recorded_at, cost, body)
SELECT again.request_id, again.engine_session, again.recorded_at, again.cost::numeric, again.body
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::bytea[])
    AS again (run_key, request_id, engine_session, recorded_at, cost, body)
JOIN usage_entry AS known ON known.run_key = again.run_key AND known.request_id = again.request_id
WHERE known.engine_session IS DISTINCT FROM again.engine_session
ON CONFLICT DO NOTHING
RETURNING request_id, engine_session;

-- add_costs: Adds a batch's sums to the hours.
INSERT INTO cost_hour AS known
    (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type,
     requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost)
SELECT hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type,
    requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost::numeric
FROM unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[], $16::bigint[],
    $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::text[]
) AS sums (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type,
    requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost)
ON CONFLICT (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type)
DO UPDATE SET
    requests = known.requests + excluded.requests,
    failed = known.failed + excluded.failed,
    input_tokens = known.input_tokens + excluded.input_tokens,
    cached_input_tokens = known.cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = known.output_tokens + excluded.output_tokens,
    reasoning_tokens = known.reasoning_tokens + excluded.reasoning_tokens,
    busy_us = known.busy_us + excluded.busy_us,
    gpu_ns = known.gpu_ns + excluded.gpu_ns,
    cost = known.cost + excluded.cost;

-- add_label_costs: Adds a batch's sums to the labels' hours.
INSERT INTO label_hour AS known
    (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, label, value,
     requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost)
SELECT hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, label, value,
    requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost::numeric
FROM unnest(
    $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::text[]
) AS sums (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, label, value,
    requests, failed, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, busy_us, gpu_ns, cost)
ON CONFLICT (label, hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, value)
DO UPDATE SET
    requests = known.requests + excluded.requests,
    failed = known.failed + excluded.failed,
    input_tokens = known.input_tokens + excluded.input_tokens,
    cached_input_tokens = known.cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = known.output_tokens + excluded.output_tokens,
    reasoning_tokens = known.reasoning_tokens + excluded.reasoning_tokens,
    busy_us = known.busy_us + excluded.busy_us,
    gpu_ns = known.gpu_ns + excluded.gpu_ns,
    cost = known.cost + excluded.cost;

-- read_label_values: The values that some labels have on a day, as far as they count apart.
SELECT label_value.day, label_value.tenant, label_value.label, label_value.value
FROM unnest($1::date[], $2::text[], $3::text[]) AS wanted (day, tenant, label)
JOIN label_value USING (day, tenant, label);

-- insert_label_values: Values that count apart from now on.
INSERT INTO label_value (day, tenant, label, value)
SELECT * FROM unnest($1::date[], $2::text[], $3::text[], $4::text[])
ON CONFLICT DO NOTHING;

-- add_engine_usage: Adds a batch's usage to the lives of engines.
INSERT INTO engine_usage AS known (engine_session, requests, cost, repeated_requests, repeated_cost, last_at)
SELECT engine_session, requests, cost::numeric, repeated_requests, repeated_cost::numeric, last_at
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[])
    AS sums (engine_session, requests, cost, repeated_requests, repeated_cost, last_at)
ON CONFLICT (engine_session) DO UPDATE SET
    requests = known.requests + excluded.requests,
    cost = known.cost + excluded.cost,
    repeated_requests = known.repeated_requests + excluded.repeated_requests,
    repeated_cost = known.repeated_cost + excluded.repeated_cost,
    last_at = greatest(known.last_at, excluded.last_at);

-- insert_stretches: New stretches of engines' time, added to their lives; a stretch that is there changes nothing.
WITH new AS (
    INSERT INTO engine_stretch (engine_session, sequence, engine, pool, simulated, gpu_type, gpus, price_per_hour,
        currency, since, until, ns, busy_ns, total, idle, attributed, lost, pending, energy_joules, closed, body)
    SELECT engine_session, sequence, engine, pool, simulated, gpu_type, gpus, price_per_hour::numeric,
        currency, since, until, ns, busy_ns, total::numeric, idle::numeric, attributed::numeric, lost::numeric,
        pending::numeric, energy_joules::numeric, closed, body
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::bigint[], $8::text[],
        $9::text[], $10::timestamptz[], $11::timestamptz[], $12::bigint[], $13::bigint[], $14::text[], $15::text[],
        $16::text[], $17::text[], $18::text[], $19::text[], $20::boolean[], $21::bytea[]
    ) AS told (engine_session, sequence, engine, pool, simulated, gpu_type, gpus, price_per_hour,
        currency, since, until, ns, busy_ns, total, idle, attributed, lost, pending, energy_joules, closed, body)
    ON CONFLICT DO NOTHING
    RETURNING *
)
INSERT INTO engine_life AS known (engine_session, engine, pool, simulated, gpu_type, gpus, price_per_hour, currency,
    since, until, stretches, last_sequence, stretch_ns_max, ns, total, idle, attributed, lost, pending, closed)
SELECT engine_session, min(engine), min(pool), bool_or(simulated), min(gpu_type), max(gpus), max(price_per_hour),
    min(currency), min(since), max(until), count(*), max(sequence), max(ns), sum(ns)::bigint, sum(total), sum(idle),
    sum(attributed), sum(lost), (array_agg(pending ORDER BY sequence DESC))[1], bool_or(closed)
FROM new GROUP BY engine_session
ON CONFLICT (engine_session) DO UPDATE SET
    since = least(known.since, excluded.since),
    until = greatest(known.until, excluded.until),
    stretches = known.stretches + excluded.stretches,
    pending = CASE WHEN excluded.last_sequence > known.last_sequence THEN excluded.pending ELSE known.pending END,
    last_sequence = greatest(known.last_sequence, excluded.last_sequence),
    stretch_ns_max = greatest(known.stretch_ns_max, excluded.stretch_ns_max),
    ns = known.ns + excluded.ns,
    total = known.total + excluded.total,
    idle = known.idle + excluded.idle,
    attributed = known.attributed + excluded.attributed,
    lost = known.lost + excluded.lost,
    closed = known.closed OR excluded.closed;
