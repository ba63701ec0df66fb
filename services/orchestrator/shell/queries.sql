-- claim_homes: makes this instance the owner of homes, and tells where each topic is to be read on.
INSERT INTO consumer_offset AS mine (home, topic, next_offset, owner_epoch)
SELECT home, topic, 0, 1
FROM unnest($1::integer[]) AS home CROSS JOIN unnest($2::text[]) AS topic
ORDER BY home, topic
ON CONFLICT (home, topic) DO UPDATE SET owner_epoch = mine.owner_epoch + 1
RETURNING home, topic, next_offset, owner_epoch;

-- outbox_of_homes: what an earlier owner decided and perhaps did not send.
SELECT home, id, records FROM outbox WHERE home = ANY($1::integer[]) ORDER BY home, id;

-- delete_outbox: forgets what the broker acknowledged.
DELETE FROM outbox USING unnest($1::integer[], $2::bigint[]) AS sent (home, id)
WHERE outbox.home = sent.home AND outbox.id = sent.id;

-- alarms_of_homes: what is due when.
SELECT run_key, home, due_at_ms FROM alarm WHERE home = ANY($1::integer[]);

-- load_runs: runs by key.
SELECT run_key, tenant, run_id, workflow, version, home, status, request, sequence, started_at_ms, finished_at_ms,
       output, error, deadline_at_ms, redrives
FROM run WHERE run_key = ANY($1::uuid[]);

-- load_steps: the steps of runs, in the order in which they were last told of.
SELECT run_key, path, kind, phase, attempt, tries, repairs, route, due_at_ms, dispatched_at_ms, output, error, usage,
       sequence, terms
FROM step WHERE run_key = ANY($1::uuid[]) ORDER BY run_key, sequence, path;

-- commit_batch: a batch whole or not at all, in one statement: the parts below that it has rows for stand in {parts}.
WITH {parts}
SELECT decided.home, decided.id, require_ownership((SELECT count(*) FROM fence), cardinality($1)) AS owned
FROM (SELECT 1) AS once LEFT JOIN decided ON true;

-- part_fence: offsets move as far as they are still where, and whose, the batch believes. Always the first part.
fence AS (
    UPDATE consumer_offset AS held SET next_offset = batch.next_offset
    FROM unnest($1::batch_advance[]) AS batch
    WHERE held.home = batch.home AND held.topic = batch.topic
      AND held.next_offset = batch.expected_offset AND held.owner_epoch = batch.owner_epoch
    RETURNING 1
);

-- part_decided: the records to send, packed; each home's row gets its id. Always there.
decided AS (
    INSERT INTO outbox (home, records) SELECT home, records FROM unnest($1::batch_outbox[])
    RETURNING home, id
);

-- part_started: new runs.
started AS (
    INSERT INTO run (run_key, tenant, run_id, workflow, version, home, status, request, sequence, started_at_ms,
                     finished_at_ms, output, error, deadline_at_ms, redrives)
    SELECT run_key, tenant, run_id, workflow, version, home, status, request::json, sequence, started_at_ms,
           finished_at_ms, output::json, error::json, deadline_at_ms, redrives
    FROM unnest($1::batch_run[])
);

-- part_changed: runs that end, are redriven, begin to undo.
changed AS (
    UPDATE run SET status = batch.status, sequence = batch.sequence, finished_at_ms = batch.finished_at_ms,
                   output = batch.output::json, error = batch.error::json, deadline_at_ms = batch.deadline_at_ms,
                   redrives = batch.redrives, version = batch.version
    FROM unnest($1::batch_run_change[]) AS batch
    WHERE run.run_key = batch.run_key
);

-- part_stepped: steps as they are now, new or not.
stepped AS (
    INSERT INTO step (run_key, path, kind, phase, attempt, tries, repairs, route, due_at_ms, dispatched_at_ms, output,
                      error, usage, sequence, terms)
    SELECT run_key, path, kind, phase, attempt, tries, repairs, route, due_at_ms, dispatched_at_ms, output::json,
           error::json, usage::json, sequence, terms::json
    FROM unnest($1::batch_step[])
    ON CONFLICT (run_key, path) DO UPDATE SET
        phase = excluded.phase, attempt = excluded.attempt, tries = excluded.tries, repairs = excluded.repairs,
        route = excluded.route, due_at_ms = excluded.due_at_ms, dispatched_at_ms = excluded.dispatched_at_ms,
        output = excluded.output, error = excluded.error, usage = excluded.usage, sequence = excluded.sequence,
        terms = excluded.terms
);

-- part_cleared: runs that wait for no point in time any more.
cleared AS (
    DELETE FROM alarm WHERE run_key = ANY($1::uuid[])
);

-- part_moved: when runs are to be woken.
moved AS (
    INSERT INTO alarm (run_key, home, due_at_ms) SELECT run_key, home, due_at_ms FROM unnest($1::batch_alarm[])
    ON CONFLICT (run_key) DO UPDATE SET due_at_ms = excluded.due_at_ms
);

-- part_sent: what the broker acknowledged of earlier batches.
sent AS (
    DELETE FROM outbox USING unnest($1::batch_sent[]) AS acknowledged
    WHERE outbox.home = acknowledged.home AND outbox.id = acknowledged.id
);

-- part_charged: what was taken of tenants' days, or given back.
charged AS (
    INSERT INTO tenant_slice AS mine (tenant, day, home, used_model_calls, used_tokens, used_cost)
    SELECT tenant, day, home, greatest(0, model_calls), greatest(0, tokens), greatest(0, cost)
    FROM unnest($1::batch_charge[])
    ON CONFLICT (tenant, day, home) DO UPDATE SET
        (used_model_calls, used_tokens, used_cost) = (
            SELECT greatest(0, mine.used_model_calls + batch.model_calls), greatest(0, mine.used_tokens + batch.tokens),
                   greatest(0, mine.used_cost + batch.cost)
            FROM unnest($1::batch_charge[]) AS batch
            WHERE batch.tenant = mine.tenant AND batch.day = mine.day AND batch.home = mine.home)
);

-- claim_slices: gives each home more of its tenants' days, one claim after the other.
SELECT given_model_calls, given_tokens, given_cost,
       (slice).granted_model_calls, (slice).granted_tokens, (slice).granted_cost,
       (slice).used_model_calls, (slice).used_tokens, (slice).used_cost
FROM unnest($1::text[], $2::integer[], $3::integer[], $4::bigint[], $5::bigint[], $6::numeric[], $7::bigint[],
            $8::bigint[], $9::numeric[])
     WITH ORDINALITY AS claim (tenant, day, home, model_calls, tokens, cost, cap_model_calls, cap_tokens, cap_cost, place)
CROSS JOIN LATERAL claim_slice(claim.tenant, claim.day, claim.home, claim.model_calls, claim.tokens, claim.cost,
                               claim.cap_model_calls, claim.cap_tokens, claim.cap_cost)
ORDER BY place;

-- definitions: all definitions, oldest first.
SELECT name, version, definition FROM workflow_definition ORDER BY sequence;

-- add_definition: keeps a definition unless that name and version is taken; answers what is kept now.
WITH added AS (
    INSERT INTO workflow_definition (name, version, definition, published_at) VALUES ($1, $2, $3::json, $4)
    ON CONFLICT (name, version) DO NOTHING
    RETURNING definition::text
)
SELECT definition, true AS added FROM added
UNION ALL
SELECT definition::text, false FROM workflow_definition
WHERE name = $1 AND version = $2 AND NOT EXISTS (SELECT FROM added);

-- delete_finished_runs: removes at most $2 runs that ended before $1, with their steps.
WITH old AS (
    SELECT run_key FROM run WHERE finished_at_ms < $1 ORDER BY finished_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED
), steps AS (
    DELETE FROM step USING old WHERE step.run_key = old.run_key
), runs AS (
    DELETE FROM run USING old WHERE run.run_key = old.run_key RETURNING 1
), slices AS (
    DELETE FROM tenant_slice WHERE day < $1 / 86400000
), days AS (
    DELETE FROM tenant_day WHERE day < $1 / 86400000
)
SELECT count(*) FROM runs;

-- broadcast_offset: how far refused definitions have been set aside, by whichever instance came first.
SELECT next_offset FROM consumer_offset WHERE home = -1 AND topic = $1;

-- advance_broadcast: the record before $2 has been taken or set aside.
INSERT INTO consumer_offset AS held (home, topic, next_offset, owner_epoch) VALUES (-1, $1, $2, 0)
ON CONFLICT (home, topic) DO UPDATE SET next_offset = greatest(held.next_offset, excluded.next_offset);
