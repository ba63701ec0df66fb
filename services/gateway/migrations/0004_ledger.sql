-- The ledger told apart further, with what was in vain, and closed against the time of the engines.

ALTER TABLE cost_hour
    ADD COLUMN lane text NOT NULL DEFAULT '',
    ADD COLUMN engine text NOT NULL DEFAULT '',
    ADD COLUMN step text NOT NULL DEFAULT '',      -- of the definition: without the numbers of items and turns
    ADD COLUMN gpu_type text NOT NULL DEFAULT '',  -- empty where nothing is paid by the hour
    ADD COLUMN gpu_ns bigint NOT NULL DEFAULT 0,
    ADD COLUMN wasted_retries numeric NOT NULL DEFAULT 0,    -- attempts that failed, or that another one replaced
    ADD COLUMN wasted_abandoned numeric NOT NULL DEFAULT 0,  -- of steps that were cancelled
    ADD COLUMN wasted_failed numeric NOT NULL DEFAULT 0;     -- all else of runs that did not complete
ALTER TABLE cost_hour DROP CONSTRAINT cost_hour_pkey;
ALTER TABLE cost_hour ADD PRIMARY KEY
    (hour, tenant, workflow, version, kind, subject, pool, simulated, currency, lane, engine, step, gpu_type);

-- The same sums by label, for as many values per key and day as label_value holds.
CREATE TABLE label_hour (
    hour timestamptz NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    pool text NOT NULL,
    simulated boolean NOT NULL,
    currency text NOT NULL,
    gpu_type text NOT NULL,
    label text NOT NULL,
    value text NOT NULL,
    requests bigint NOT NULL,
    failed bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    busy_us bigint NOT NULL,
    gpu_ns bigint NOT NULL,
    cost numeric NOT NULL,
    wasted_retries numeric NOT NULL DEFAULT 0,
    wasted_abandoned numeric NOT NULL DEFAULT 0,
    wasted_failed numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (label, hour, tenant, workflow, version, kind, subject, pool, simulated, currency, gpu_type, value)
) WITH (fillfactor = 70);
CREATE INDEX label_hour_by_age ON label_hour USING brin (hour);

CREATE TABLE label_value (
    day date NOT NULL,
    tenant text NOT NULL,
    label text NOT NULL,                 -- empty: the values are the labels themselves
    value text NOT NULL,
    PRIMARY KEY (day, tenant, label, value)
);

ALTER TABLE usage_entry
    ADD COLUMN failed boolean NOT NULL DEFAULT false,
    ADD COLUMN model_call boolean NOT NULL DEFAULT false,
    ADD COLUMN simulated boolean NOT NULL DEFAULT false,
    ADD COLUMN engine_session uuid,
    ADD COLUMN waste smallint NOT NULL DEFAULT 0;  -- 0 not known to be in vain, 1 retry, 2 abandoned, 3 failed run

-- Work that an engine did again for a request that the ledger has already: the answer counts once, the time does not.
CREATE TABLE usage_repeat (
    request_id uuid NOT NULL,
    engine_session uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    cost numeric NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (request_id, engine_session)
);
CREATE INDEX usage_repeat_by_age ON usage_repeat USING brin (recorded_at);

-- Attempts that progress says were in vain, whatever their usage says.
CREATE TABLE wasted_request (
    run_key uuid NOT NULL,
    request_id uuid NOT NULL,
    waste smallint NOT NULL,
    PRIMARY KEY (run_key, request_id)
);

-- What each ended run came to. A run whose end, usage or waste changed is unsettled until its sums are made again.
CREATE TABLE run_cost (
    run_key uuid PRIMARY KEY,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version text NOT NULL,
    labels jsonb NOT NULL,
    status text NOT NULL,
    finished_at timestamptz NOT NULL,
    simulated boolean NOT NULL,
    currency text NOT NULL,              -- in which most of the cost is; nothing is added up across currencies
    model_calls bigint NOT NULL,
    cost numeric NOT NULL,
    wasted numeric NOT NULL
);
CREATE INDEX run_cost_by_age ON run_cost USING brin (finished_at);
CREATE TABLE unsettled_run (
    run_key uuid PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);  -- rows come and go
INSERT INTO unsettled_run (run_key) SELECT run_key FROM run_end;

-- The time of engines, a stretch at a time, and each of their lives.
CREATE TABLE engine_stretch (
    engine_session uuid NOT NULL,
    sequence bigint NOT NULL,
    engine text NOT NULL,
    pool text NOT NULL,
    simulated boolean NOT NULL,
    gpu_type text NOT NULL,
    gpus bigint NOT NULL,
    price_per_hour numeric NOT NULL,
    currency text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    ns bigint NOT NULL,
    busy_ns bigint NOT NULL,
    total numeric NOT NULL,
    idle numeric NOT NULL,
    attributed numeric NOT NULL,
    lost numeric NOT NULL,
    pending numeric NOT NULL,
    energy_joules numeric NOT NULL,
    closed boolean NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (engine_session, sequence)
);
CREATE INDEX engine_stretch_by_age ON engine_stretch USING brin (until);

CREATE TABLE engine_life (
    engine_session uuid PRIMARY KEY,
    engine text NOT NULL,
    pool text NOT NULL,
    simulated boolean NOT NULL,
    gpu_type text NOT NULL,
    gpus bigint NOT NULL,
    price_per_hour numeric NOT NULL,
    currency text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL,
    stretches bigint NOT NULL,
    last_sequence bigint NOT NULL,
    stretch_ns_max bigint NOT NULL,
    ns bigint NOT NULL,
    total numeric NOT NULL,
    idle numeric NOT NULL,
    attributed numeric NOT NULL,
    lost numeric NOT NULL,
    pending numeric NOT NULL,            -- at the end of the newest stretch
    closed boolean NOT NULL
);
CREATE INDEX engine_life_by_end ON engine_life (until);

CREATE TABLE engine_usage (
    engine_session uuid PRIMARY KEY,
    requests bigint NOT NULL,
    cost numeric NOT NULL,
    repeated_requests bigint NOT NULL,
    repeated_cost numeric NOT NULL,
    last_at timestamptz NOT NULL
);
