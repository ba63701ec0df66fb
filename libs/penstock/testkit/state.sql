-- unsettled: what an orchestrator without work must not have.
SELECT (SELECT count(*) FROM run WHERE status = 'running' OR status LIKE 'undoing_%') AS running_runs,
       (SELECT count(*) FROM step WHERE phase IN ('waiting', 'retrying')) AS awaited_steps,
       (SELECT count(*) FROM alarm) AS alarms,
       (SELECT count(*) FROM outbox) AS outbox_rows;

-- contradictions: runs that ended without saying how, and steps without a run.
SELECT (SELECT count(*) FROM run WHERE finished_at_ms IS NULL AND status <> 'running' AND status NOT LIKE 'undoing_%') AS ended_without_a_time,
       (SELECT count(*) FROM run WHERE (error IS NULL) <> (status = 'completed')) AS ended_without_a_reason,
       (SELECT count(*) FROM step WHERE NOT EXISTS (SELECT FROM run WHERE run.run_key = step.run_key)) AS lost_steps;

-- runs: how many rows these run ids have.
SELECT count(*) FROM run WHERE run_id = ANY($1::text[]);
