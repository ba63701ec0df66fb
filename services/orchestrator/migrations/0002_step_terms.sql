-- The terms of a step's present attempt, where it has any: {"route_reason", "give_up_at_ms",
-- "reserved": [model calls, tokens, cost], "unanswered": [...]}.
ALTER TABLE step ADD COLUMN terms json;
