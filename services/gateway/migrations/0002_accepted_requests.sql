-- What was accepted at this door: answers for a run that has not started yet, and idempotency keys.

CREATE TABLE accepted_request (
    run_key uuid PRIMARY KEY,
    tenant text NOT NULL,
    run_id text NOT NULL,
    workflow text NOT NULL,
    body_sha256 bytea NOT NULL,
    accepted_at timestamptz NOT NULL
);
CREATE INDEX accepted_request_by_age ON accepted_request USING brin (accepted_at);

CREATE TABLE idempotency_key (
    tenant text NOT NULL,
    key text NOT NULL,
    body_sha256 bytea NOT NULL,
    run_id text NOT NULL,
    accepted_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_key_by_age ON idempotency_key USING brin (accepted_at);
