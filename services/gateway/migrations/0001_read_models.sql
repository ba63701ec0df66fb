-- What the gateway knows of runs, learnt from topics only. Bodies are kept as they came: rows grow with new
-- records and are never rewritten, and a record that comes twice or late changes nothing.

CREATE TABLE run (
    run_key uuid PRIMARY KEY,
    tenant text NOT NULL,
    run_id text NOT NULL,
    workflow text NOT NULL,
    version text NOT NULL,
    labels jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    sequence bigint NOT NULL,            -- of the newest progress record seen; -1 while only the end was seen
    status text NOT NULL,
    running_at timestamptz NOT NULL,     -- the newest moment it was seen running: an end before it was redriven
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX run_newest_first ON run (tenant, started_at DESC, run_key DESC);
CREATE INDEX run_by_age ON run USING brin (updated_at);

CREATE TABLE run_progress (
    run_key uuid NOT NULL,
    sequence bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run_key, sequence)
);

CREATE TABLE run_end (
    run_key uuid PRIMARY KEY,
    status text NOT NULL,
    finished_at timestamptz NOT NULL,
    body bytea NOT NULL
);

-- The ledger: one row per request that reached an executor, whoever reports it how often.
CREATE TABLE usage_entry (
    run_key uuid NOT NULL,
    request_id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    cost numeric NOT NULL,
    currency text NOT NULL,
    input_tokens bigint NOT NULL,        -- the four buckets exclude each other
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (run_key, request_id)
);
CREATE INDEX usage_entry_by_age ON usage_entry USING brin (recorded_at);

-- The ledger's sums by hour, so that a cost report reads hundreds of rows and not millions.
CREATE TABLE cost_hour (
    hour timestamptz NOT NULL,
    tenant text NOT NULL,
    workflow text NOT NULL,
    version text NOT NULL,
    kind text NOT NULL,
    subject text NOT NULL,
    pool text NOT NULL,
    simulated boolean NOT NULL,
    currency text NOT NULL,
    requests bigint NOT NULL,
    failed bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    busy_us bigint NOT NULL,
    cost numeric NOT NULL,
    PRIMARY KEY (hour, tenant, workflow, version, kind, subject, pool, simulated, currency)
) WITH (fillfactor = 70);

CREATE TABLE workflow_definition (
    name text NOT NULL,
    version text NOT NULL,
    published_at timestamptz NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (name, version)
);
