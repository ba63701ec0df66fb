-- What name@alias means now; what was set last holds, so that order and repeats are irrelevant.
CREATE TABLE workflow_alias (
    name text NOT NULL,
    alias text NOT NULL,
    set_at timestamptz NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (name, alias)
);
