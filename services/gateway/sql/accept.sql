-- claim_key: Takes an idempotency key; answers the request that has it already, if it is another.
WITH claimed AS (
    INSERT INTO idempotency_key (tenant, key, body_sha256, run_id, accepted_at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (tenant, key) DO NOTHING
    RETURNING body_sha256, run_id
)
SELECT body_sha256, run_id FROM claimed
UNION ALL
SELECT body_sha256, run_id FROM idempotency_key WHERE tenant = $1 AND key = $2
LIMIT 1;

-- accept_request: Notes a request; answers the hash of the one that was accepted for this run first.
WITH accepted AS (
    INSERT INTO accepted_request (run_key, tenant, run_id, workflow, body_sha256, accepted_at)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (run_key) DO NOTHING
    RETURNING body_sha256
)
SELECT body_sha256 FROM accepted
UNION ALL
SELECT body_sha256 FROM accepted_request WHERE run_key = $1
LIMIT 1;
