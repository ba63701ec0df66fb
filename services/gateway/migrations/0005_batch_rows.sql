-- The rows that are written most, as the statements are given them: one array of rows is read in half the time of an
-- array for each column. Times are seconds since 1970 UTC, which a driver writes down faster than a timestamp. A type
-- never changes, for other versions write with it as well: another column is another type.
CREATE TYPE batch_progress AS (run_key uuid, sequence bigint, body bytea);

CREATE TYPE batch_run AS (
    run_key uuid, tenant text, run_id text, workflow text, version text, labels jsonb, started_at double precision,
    sequence bigint, status text, running_at double precision, updated_at double precision
);

CREATE TYPE batch_usage AS (
    run_key uuid, request_id uuid, recorded_at double precision, cost text, currency text, input_tokens bigint,
    cached_input_tokens bigint, output_tokens bigint, reasoning_tokens bigint, failed boolean, model_call boolean,
    simulated boolean, engine_session uuid, body bytea
);

-- Each run changes a few times, and soon: with room for it on the page no index changes.
ALTER TABLE run SET (fillfactor = 50);
