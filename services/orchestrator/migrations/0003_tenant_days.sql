-- Daily budgets of tenants: what all homes together hold of a day, and what each of them holds and has used.
CREATE TABLE tenant_day (
    tenant      text    NOT NULL,
    day         integer NOT NULL,  -- UTC days since 1970
    model_calls bigint  NOT NULL DEFAULT 0,
    tokens      bigint  NOT NULL DEFAULT 0,
    cost        numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, day)
);

-- Used: what calls in flight reserve, and what the others spent. Written with the batch that uses it.
CREATE TABLE tenant_slice (
    tenant              text    NOT NULL,
    day                 integer NOT NULL,
    home                integer NOT NULL,
    granted_model_calls bigint  NOT NULL DEFAULT 0,
    granted_tokens      bigint  NOT NULL DEFAULT 0,
    granted_cost        numeric NOT NULL DEFAULT 0,
    used_model_calls    bigint  NOT NULL DEFAULT 0,
    used_tokens         bigint  NOT NULL DEFAULT 0,
    used_cost           numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, day, home)
) WITH (fillfactor = 50);

-- Gives one home more of a tenant's day, as far as the caps allow (null: no cap); a negative want is given back.
CREATE FUNCTION claim_slice(
    of_tenant text, of_day integer, of_home integer, want_model_calls bigint, want_tokens bigint, want_cost numeric,
    cap_model_calls bigint, cap_tokens bigint, cap_cost numeric
) RETURNS TABLE (
    given_model_calls bigint, given_tokens bigint, given_cost numeric, slice tenant_slice
) LANGUAGE plpgsql AS $$
DECLARE
    held tenant_day;
BEGIN
    INSERT INTO tenant_day (tenant, day) VALUES (of_tenant, of_day) ON CONFLICT DO NOTHING;
    SELECT * INTO held FROM tenant_day WHERE tenant = of_tenant AND day = of_day FOR UPDATE;
    given_model_calls := least(want_model_calls, greatest(0, cap_model_calls - held.model_calls));
    given_tokens := least(want_tokens, greatest(0, cap_tokens - held.tokens));
    given_cost := least(want_cost, greatest(0, cap_cost - held.cost));
    UPDATE tenant_day SET model_calls = model_calls + given_model_calls, tokens = tokens + given_tokens,
                          cost = cost + given_cost
    WHERE tenant = of_tenant AND day = of_day;
    INSERT INTO tenant_slice AS mine (tenant, day, home, granted_model_calls, granted_tokens, granted_cost)
    VALUES (of_tenant, of_day, of_home, given_model_calls, given_tokens, given_cost)
    ON CONFLICT (tenant, day, home) DO UPDATE SET
        granted_model_calls = mine.granted_model_calls + excluded.granted_model_calls,
        granted_tokens = mine.granted_tokens + excluded.granted_tokens,
        granted_cost = mine.granted_cost + excluded.granted_cost
    RETURNING mine.* INTO slice;
    RETURN NEXT;
END $$;
