-- create_tables: what has to be remembered.
CREATE TABLE consumed (topic text, partition integer, next_offset bigint, PRIMARY KEY (topic, partition));
CREATE TABLE run (run_id text PRIMARY KEY, input json, ended boolean NOT NULL DEFAULT false);
CREATE TABLE step (run_id text, step integer, output json, PRIMARY KEY (run_id, step));
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, records bytea);
CREATE TABLE told (run_id text PRIMARY KEY, done integer);
CREATE TABLE used (run_id text, step integer, cost numeric, PRIMARY KEY (run_id, step));

-- commit: one batch of the loop.
WITH moved AS (
    INSERT INTO consumed AS held SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[])
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset
), started AS (
    INSERT INTO run (run_id, input) SELECT run_id, input::json FROM unnest($4::text[], $5::text[]) AS batch (run_id, input)
), ended AS (
    UPDATE run SET ended = true WHERE run_id = ANY($6::text[])
), stepped AS (
    INSERT INTO step (run_id, step, output)
    SELECT run_id, step, output::json FROM unnest($7::text[], $8::integer[], $9::text[]) AS batch (run_id, step, output)
    ON CONFLICT (run_id, step) DO UPDATE SET output = excluded.output
), sent AS (
    DELETE FROM outbox WHERE id = ANY($10::bigint[])
)
INSERT INTO outbox (records) VALUES ($11) RETURNING id;

-- read_side: one batch of the read side.
WITH runs AS (
    INSERT INTO told SELECT * FROM unnest($1::text[], $2::integer[])
    ON CONFLICT (run_id) DO UPDATE SET done = greatest(told.done, excluded.done)
)
INSERT INTO used SELECT run_id, step, cost::numeric FROM unnest($3::text[], $4::integer[], $5::text[]) AS batch (run_id, step, cost)
ON CONFLICT DO NOTHING;
