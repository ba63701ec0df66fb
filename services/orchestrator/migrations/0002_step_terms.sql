-- The terms of a step's present attempt, where it has any: {"give_up_at_ms"}.
ALTER TABLE step ADD COLUMN terms json;
