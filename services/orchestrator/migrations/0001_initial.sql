-- State of runs, and where the orchestrator has read to: both move in one transaction.

-- Definitions as first published: a later record with other content under the same name and version is refused.
CREATE TABLE workflow_definition (
    name         text   NOT NULL,
    version      text   NOT NULL,
    sequence     bigint GENERATED ALWAYS AS IDENTITY,  -- the highest of a name is what the bare name means
    definition   json   NOT NULL,
    published_at timestamptz NOT NULL,
    PRIMARY KEY (name, version)
);

-- A home is a partition number; its owner is fenced by the epoch, which grows with each take-over.
CREATE TABLE consumer_offset (
    home        integer NOT NULL,
    topic       text    NOT NULL,
    next_offset bigint  NOT NULL,  -- 0: nothing read yet, begin at the earliest
    owner_epoch bigint  NOT NULL,
    PRIMARY KEY (home, topic)
) WITH (fillfactor = 50);

-- Written when a run starts and when it ends; in between only its steps grow.
CREATE TABLE run (
    run_key        uuid    PRIMARY KEY,
    tenant         text    NOT NULL,
    run_id         text    NOT NULL,
    workflow       text    NOT NULL,
    version        text    NOT NULL,
    home           integer NOT NULL,
    status         text    NOT NULL,
    request        json    NOT NULL,  -- what never changes: input, labels, priority, budget, traceparent
    sequence       integer NOT NULL,  -- of the last progress record written with this row; steps may be ahead
    started_at_ms  bigint  NOT NULL,
    finished_at_ms bigint,
    output         json,
    error          json,
    deadline_at_ms bigint  NOT NULL,
    redrives       integer NOT NULL DEFAULT 0
) WITH (fillfactor = 80);

CREATE INDEX run_finished_at ON run (finished_at_ms) WHERE finished_at_ms IS NOT NULL;

CREATE TABLE step (
    run_key          uuid     NOT NULL,
    path             text     NOT NULL,
    kind             text     NOT NULL,
    phase            text     NOT NULL,
    attempt          integer  NOT NULL,
    tries            integer  NOT NULL,
    repairs          integer  NOT NULL,
    route            integer  NOT NULL,
    due_at_ms        bigint,
    dispatched_at_ms bigint,
    output           json,
    error            json,
    usage            json,
    sequence         integer  NOT NULL,  -- of the progress record that told of this state
    PRIMARY KEY (run_key, path)
) WITH (fillfactor = 70);

-- One row per run that waits for a point in time: never later than the earliest thing due in the run.
CREATE TABLE alarm (
    run_key   uuid    PRIMARY KEY,
    home      integer NOT NULL,
    due_at_ms bigint  NOT NULL
);

CREATE INDEX alarm_home ON alarm (home);

-- Records decided but perhaps not yet acknowledged by the broker: one row per home and batch.
CREATE TABLE outbox (
    home    integer NOT NULL,
    id      bigint  GENERATED ALWAYS AS IDENTITY,
    records bytea   NOT NULL,  -- MessagePack: [[topic, partition, key, value, [[header, bytes], ...]], ...]
    PRIMARY KEY (home, id)
);
ALTER TABLE outbox ALTER COLUMN records SET STORAGE EXTERNAL;  -- lives for milliseconds: compressing it is waste

-- Ends the statement that calls it when its writer no longer owns what it writes.
CREATE FUNCTION require_ownership(held bigint, expected bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF held <> expected THEN
        RAISE EXCEPTION 'fenced: % of % offset rows are still ours', held, expected USING ERRCODE = 'PS001';
    END IF;
    RETURN true;
END $$;
