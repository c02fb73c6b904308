-- What seeding needs and cannot be a statement of its own.

-- A number from 0 to below 1 that is the same for the same seed, place and row, in whatever order rows are made.
CREATE FUNCTION app.random_fraction(seed bigint, place text, n bigint) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (hashint8extended(n, hashtextextended(place, seed)) & 1125899906842623)::float8 / 1125899906842624
$$;

-- As roll, a whole number from `lowest` to `highest`.
CREATE FUNCTION app.random_integer(seed bigint, place text, n bigint, lowest bigint, highest bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT lowest + floor(app.random_fraction(seed, place, n) * (highest - lowest + 1))::bigint
$$;

-- Rows of each table; `migration` is not of the app's data.
CREATE FUNCTION app.row_counts() RETURNS TABLE (name text, rows bigint) LANGUAGE plpgsql STABLE AS $$
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'app'::regnamespace AND c.relkind = 'r' AND c.relname NOT IN ('migration', 'order_transitions')
        ORDER BY c.relname
    LOOP
        EXECUTE format('SELECT count(*) FROM app.%I', name) INTO rows;
        RETURN NEXT;
    END LOOP;
END $$;

-- Empties every table of the app and starts their ids anew.
CREATE FUNCTION app.truncate_tables() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE (
        SELECT 'TRUNCATE ' || string_agg(format('app.%I', name), ', ') || ' RESTART IDENTITY' FROM app.row_counts());
END $$;

-- Tells the planner about the new rows.
CREATE FUNCTION app.analyze_tables() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT r.name FROM app.row_counts() AS r LOOP
        EXECUTE format('ANALYZE app.%I', name);
    END LOOP;
END $$;
