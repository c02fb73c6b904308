-- The reference app's data. Every row depends only on `seed`, `scale` and `today`; nothing happens after the midnight (UTC)
-- that begins `today`. Ids follow the order of the rows, so tables that start empty always get the same ids.

-- name: schema_owner
-- Whether a schema `app` exists, and its comment.
SELECT to_regnamespace('app') IS NOT NULL AS schema_exists,
    obj_description(to_regnamespace('app')::oid, 'pg_namespace') AS comment;

-- name: row_counts
-- Number of rows of each of the app's tables.
SELECT name, rows FROM app.row_counts();

-- name: tables_truncate
-- Empties all of the app's tables.
SELECT app.truncate_tables();

-- name: outbox_exists
-- Whether this database has Backline's own tables.
SELECT to_regclass('backline.idempotency') IS NOT NULL AS table_exists;

-- name: idempotency_keys_delete
-- Deletes the idempotency keys of messages: they refer to deleted rows, whose ids are reused.
DELETE FROM backline.idempotency;

-- name: analyze
-- Updates the planner's statistics.
SELECT app.analyze_tables();

-- name: seed_users
-- Users of seven countries; the first three are admins. Phone numbers are from the ranges that national regulators reserve
-- for fiction (none is known for India, Japan and Brazil); email addresses use the domains reserved for examples.
WITH place (number, country, zone, language, phone, digits) AS (VALUES
    (0, 'US', 'America/New_York', 'en', '+121255501', 2), (1, 'US', 'America/Los_Angeles', 'en', '+121355501', 2),
    (2, 'GB', 'Europe/London', 'en', '+447700900', 3), (3, 'DE', 'Europe/Berlin', 'de', '+493023125', 3),
    (4, 'FR', 'Europe/Paris', 'fr', '+3363998', 4), (5, 'IN', 'Asia/Kolkata', 'en', NULL, 0),
    (6, 'JP', 'Asia/Tokyo', 'ja', NULL, 0), (7, 'BR', 'America/Sao_Paulo', 'pt-BR', NULL, 0)
), person AS (
    SELECT n, place.*, n <= 3 AS is_admin,
        phone || lpad(app.random_integer(%(seed)s::bigint, 'phone', n, 0, (10 ^ digits)::bigint - 1)::text, digits,
            '0') AS phone_number,
        app.random_fraction(%(seed)s::bigint, 'channels', n) AS preference,
        CASE WHEN n <= 3 THEN 1 ELSE app.random_fraction(%(seed)s::bigint, 'user state', n) END AS state_roll,
        %(today)s::date::timestamp AT TIME ZONE 'UTC'
            - (1 + 729 * app.random_fraction(%(seed)s::bigint, 'user created', n)) * interval '1 day' AS created_at
    FROM generate_series(1, 150 * %(scale)s::bigint) AS n
    JOIN place ON place.number = app.random_integer(%(seed)s::bigint, 'place', n, 0, 7)
)
INSERT INTO app.users (email, name, phone, country, zone, language, channels, is_admin, state, created_at, verified_at,
    deactivated_at)
SELECT (CASE WHEN is_admin THEN 'admin' ELSE 'customer' END) || lpad(n::text, 6, '0') || '@example.'
        || (ARRAY['com', 'org', 'net'])[1 + n %% 3],
    (CASE WHEN is_admin THEN 'Admin ' ELSE 'Customer ' END) || lpad(n::text, 6, '0'),
    phone_number, country, zone, language,
    (CASE
        WHEN preference < 0.15 AND phone_number IS NOT NULL THEN '{sms,email}'
        WHEN preference < 0.30 THEN '{push,email}'
        WHEN preference < 0.40 THEN '{email,push}'
        ELSE '{email}' END)::app.channel[],
    is_admin,
    (CASE WHEN state_roll < 0.05 THEN 'unverified' WHEN state_roll < 0.08 THEN 'deactivated'
        ELSE 'active' END)::app.user_state,
    created_at,
    CASE WHEN state_roll >= 0.05 THEN created_at + interval '20 minutes' END,
    CASE WHEN state_roll BETWEEN 0.05 AND 0.0799999 THEN created_at + interval '20 hours' END
FROM person ORDER BY n;

-- name: seed_user_roles
-- Roles of some staff members, granted by the first admin; some are revoked.
INSERT INTO app.user_roles (user_id, role, granted_by, granted_at, revoked_at)
SELECT id, (enum_range(NULL::app.role))[app.random_integer(%(seed)s::bigint, 'role', id, 1, 5)], 1, verified_at,
    CASE WHEN app.random_fraction(%(seed)s::bigint, 'revoked', id) < 0.3 THEN verified_at + interval '3 hours' END
FROM app.users WHERE state = 'active' AND id %% 20 = 2 AND id > 1 ORDER BY id;

-- name: seed_sessions
-- Logins of the last 60 days: some active, some expired, some ended.
WITH login AS (
    SELECT n, u.id AS user_id,
        greatest(u.created_at,
            midnight - 60 * app.random_fraction(%(seed)s::bigint, 'session', n) * interval '1 day') AS created_at, midnight
    FROM generate_series(1, 200 * %(scale)s::bigint) AS n
    JOIN app.users AS u ON u.id = app.random_integer(%(seed)s::bigint, 'session user', n, 1, 150 * %(scale)s::bigint)
    CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
), seen AS (
    SELECT *, created_at + app.random_fraction(%(seed)s::bigint, 'seen', n) * least(midnight - created_at,
        interval '3 days') AS last_seen_at
    FROM login
)
INSERT INTO app.sessions (user_id, token_hash, ip, user_agent, created_at, last_seen_at, expires_at, ended_at)
SELECT user_id, sha256(convert_to('session ' || %(seed)s::bigint || ' ' || n, 'UTF8')),
    inet '198.51.100.0' + app.random_integer(%(seed)s::bigint, 'session ip', n, 0, 255),
    (ARRAY['Browser/1.0 (desktop)', 'Browser/1.0 (phone)', 'App/2.3 (phone)'])[app.random_integer(%(seed)s::bigint, 'agent', n, 1,
        3)],
    created_at, last_seen_at, created_at + interval '30 days',
    CASE WHEN app.random_fraction(%(seed)s::bigint, 'ended', n) < 0.2 THEN last_seen_at + (midnight - last_seen_at) * 0.01 END
FROM seen ORDER BY created_at, n;

-- name: seed_tokens
-- Tokens of the last ten days: used, expired, and (one in ten) valid for three more days.
WITH created AS (
    SELECT n, u.id AS user_id, u.state, n %% 10 = 0 AS is_live,
        (enum_range(NULL::app.token_kind))[app.random_integer(%(seed)s::bigint, 'token kind', n, 1, 3)] AS kind,
        greatest(u.created_at, midnight - app.random_fraction(%(seed)s::bigint, 'token', n) * interval '10 days') AS created_at,
            midnight
    FROM generate_series(1, 150 * %(scale)s::bigint) AS n
    JOIN app.users AS u ON u.id = app.random_integer(%(seed)s::bigint, 'token user', n, 1, 150 * %(scale)s::bigint)
    CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
), lasting AS (
    SELECT *, CASE kind WHEN 'password_reset' THEN interval '1 hour' WHEN 'email_verification' THEN interval '2 days'
                        ELSE interval '5 minutes' END AS life
    FROM created
)
INSERT INTO app.tokens (user_id, kind, token_hash, created_at, expires_at, used_at)
SELECT user_id, kind, sha256(convert_to('token ' || %(seed)s::bigint || ' ' || n, 'UTF8')), created_at,
    CASE WHEN is_live THEN midnight + interval '3 days' ELSE created_at + life END,
    CASE WHEN NOT is_live AND created_at + life <= midnight AND app.random_fraction(%(seed)s::bigint, 'used', n) < 0.6
              AND (kind <> 'email_verification' OR state <> 'unverified')
         THEN created_at + life * app.random_fraction(%(seed)s::bigint, 'used at', n) END
FROM lasting ORDER BY n;

-- name: seed_tokens_select
-- The secrets of the unused tokens that are valid on `today`, for encryption.
SELECT id, 'token ' || %(seed)s::bigint || ' ' || id AS token FROM app.tokens
WHERE used_at IS NULL AND expires_at > %(today)s::date::timestamp AT TIME ZONE 'UTC' + interval '1 day' ORDER BY id;

-- name: seed_tokens_encrypt
-- Stores encrypted secrets beside their hashes.
UPDATE app.tokens AS t SET token_encrypted = u.encrypted
FROM unnest(%(ids)s::bigint[], %(encrypted)s::text[]) AS u (id, encrypted) WHERE t.id = u.id;

-- name: seed_push_tokens
-- One device of each user who chose push; some are unregistered.
INSERT INTO app.push_tokens (user_id, platform, token, created_at, last_seen_at, removed_at, removed_reason)
SELECT id, (enum_range(NULL::app.platform))[app.random_integer(%(seed)s::bigint, 'platform', id, 1, 3)],
    encode(sha256(convert_to('device ' || %(seed)s::bigint || ' ' || id, 'UTF8')), 'hex'), created_at,
    created_at + interval '1 hour', CASE WHEN is_gone THEN created_at + interval '2 hours' END,
        CASE WHEN is_gone THEN 'UNREGISTERED' END
FROM (SELECT *, app.random_fraction(%(seed)s::bigint, 'device gone', id) < 0.05 AS is_gone FROM app.users) AS u
WHERE 'push' = ANY (channels) ORDER BY id;

-- name: seed_scheduled_notifications
-- Notifications of the past hours (due), of the coming days, and some cancelled ones.
INSERT INTO app.scheduled_notifications (user_id, type, payload, due_at, state, created_at, cancelled_at)
SELECT u.id, 'email',
    jsonb_build_object('subject', 'Reminder ' || n, 'text', 'You asked to be reminded of item ' || n || '.'),
    midnight + (14 * app.random_fraction(%(seed)s::bigint, 'notification due', n) - 0.5) * interval '1 day',
    (CASE WHEN is_off THEN 'cancelled' ELSE 'scheduled' END)::app.notification_state,
    midnight - interval '20 hours', CASE WHEN is_off THEN midnight - interval '15 hours' END
FROM generate_series(1, 150 * %(scale)s::bigint) AS n
JOIN app.users AS u ON u.id = app.random_integer(%(seed)s::bigint, 'notification user', n, 1, 150 * %(scale)s::bigint)
    AND u.state = 'active'
CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
CROSS JOIN LATERAL (SELECT app.random_fraction(%(seed)s::bigint, 'notification off', n) < 0.1 AS is_off) AS off
ORDER BY n;

-- name: seed_privacy_requests
-- Requests of the last 60 days; the older ones are completed.
WITH requested AS (
    SELECT n, u.id AS user_id, midnight,
        greatest(u.created_at, midnight - 60 * app.random_fraction(%(seed)s::bigint, 'asked', n) * interval '1 day') AS received_at
    FROM generate_series(1, 8 * %(scale)s::bigint) AS n
    JOIN app.users AS u ON u.id = app.random_integer(%(seed)s::bigint, 'asking user', n, 1, 150 * %(scale)s::bigint)
    CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
)
INSERT INTO app.privacy_requests (user_id, kind, received_at, due_at, completed_at)
SELECT user_id, (enum_range(NULL::app.privacy_request_kind))[app.random_integer(%(seed)s::bigint, 'asked for', n, 1, 4)],
    received_at,
    (received_at AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC',
    CASE WHEN received_at < midnight - interval '20 days' THEN received_at + interval '15 days' END
FROM requested ORDER BY n;

-- name: seed_products
-- Products with a price in six currencies; seed_stock sets their stock.
WITH rate (currency, factor) AS (VALUES
    ('EUR', 1.0), ('USD', 1.1), ('GBP', 0.85), ('INR', 90.0), ('JPY', 1.6), ('BRL', 6.0)
), created AS (
    INSERT INTO app.products (sku, name, created_at)
    SELECT 'P-' || lpad(n::text, 6, '0'), 'Product ' || lpad(n::text, 6, '0'),
        %(today)s::date::timestamp AT TIME ZONE 'UTC' - interval '900 days'
    FROM generate_series(1, 40 * %(scale)s::bigint) AS n ORDER BY n
    RETURNING id
)
INSERT INTO app.product_prices (product_id, currency, amount_minor)
SELECT id, currency, round(app.random_integer(%(seed)s::bigint, 'price', id, 500, 20000) * factor)::bigint FROM created
    CROSS JOIN rate;

-- name: seed_suppliers
-- Suppliers that deliver to one to three regions.
INSERT INTO app.suppliers (name, email, regions, quality, capacity, is_active, created_at)
SELECT 'Supplier ' || lpad(n::text, 4, '0'), 'supplier' || lpad(n::text, 4, '0') || '@example.com',
    (ARRAY['DE', 'FR', 'GB', 'US', 'IN', 'JP', 'BR', 'DE', 'FR'])[first : first + app.random_integer(%(seed)s::bigint, 'regions',
        n, 0, 2)]::app.country[],
    round((0.6 + 0.4 * app.random_fraction(%(seed)s::bigint, 'quality', n))::numeric, 3),
        app.random_integer(%(seed)s::bigint, 'capacity', n, 100, 5000),
    n = 1 OR app.random_fraction(%(seed)s::bigint, 'supplier active', n) < 0.95,
        %(today)s::date::timestamp AT TIME ZONE 'UTC' - interval '800 days'
FROM generate_series(1, 10 * %(scale)s::bigint) AS n
CROSS JOIN LATERAL (SELECT app.random_integer(%(seed)s::bigint, 'region', n, 1, 7)::integer AS first) AS region
ORDER BY n;

-- name: seed_offers
-- Ten offers of each supplier, for ten products.
INSERT INTO app.offers (supplier_id, product_id, unit_price_minor, currency, min_quantity, quantity, lead_days, valid)
SELECT s.id, p.id, greatest(1,
    round(p.amount_minor * (0.4 + 0.4 * app.random_fraction(%(seed)s::bigint, 'offer price', n)))::bigint), 'EUR',
    app.random_integer(%(seed)s::bigint, 'offer least', n, 1, 10),
    app.random_integer(%(seed)s::bigint, 'offer quantity', n, 2000, 5000),
    app.random_integer(%(seed)s::bigint, 'lead days', n, 1, 30),
    tstzrange(midnight - app.random_integer(%(seed)s::bigint, 'offer from', n, 30, 90) * interval '1 day',
              midnight + app.random_integer(%(seed)s::bigint, 'offer until', n, 10, 60) * interval '1 day')
FROM generate_series(0, 100 * %(scale)s::bigint - 1) AS n
CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
JOIN app.suppliers AS s ON s.id = 1 + n %% (10 * %(scale)s::bigint)
-- Seven and forty have no common factor, so a supplier never offers the same product twice.
JOIN (SELECT product_id AS id, amount_minor FROM app.product_prices WHERE currency = 'EUR') AS p
  ON p.id = 1 + (n / (10 * %(scale)s::bigint) * 7 + s.id * 3) %% (40 * %(scale)s::bigint)
ORDER BY n;

-- name: seed_purchase_orders
-- Orders to suppliers: half of them open, the rest allocated to an offer that can serve them, received or cancelled.
WITH requested AS (
    SELECT n, o.id AS offer_id, o.product_id, o.unit_price_minor, o.currency, s.regions[1] AS region, midnight,
        app.random_integer(%(seed)s::bigint, 'wanted', n, 10, 40) AS quantity,
            app.random_fraction(%(seed)s::bigint, 'purchase state', n) AS state_roll,
        midnight - app.random_integer(%(seed)s::bigint, 'wanted on', n, 2, 40) * interval '1 day' AS created_at
    FROM generate_series(1, 60 * %(scale)s::bigint) AS n
    JOIN app.offers AS o ON o.id = app.random_integer(%(seed)s::bigint, 'wanted offer', n, 1, 100 * %(scale)s::bigint)
    JOIN app.suppliers AS s ON s.id = o.supplier_id
    CROSS JOIN (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
), decided AS (
    SELECT *, (CASE WHEN state_roll < 0.5 THEN 'open' WHEN state_roll < 0.8 THEN 'allocated'
        WHEN state_roll < 0.9 THEN 'received'
                    ELSE 'cancelled' END)::app.purchase_state AS state
    FROM requested
)
, created AS (
    INSERT INTO app.purchase_orders (product_id, quantity, region, max_price_minor, currency, created_at, needed_by,
        state, allocated_at, received_at, cancelled_at)
    SELECT product_id, quantity, region, unit_price_minor * 12 / 10 + 1, currency, created_at,
        (created_at AT TIME ZONE 'UTC')::date + app.random_integer(%(seed)s::bigint, 'needed by', n, 10, 60)::integer, state,
        CASE WHEN state IN ('allocated', 'received') THEN created_at + interval '3 hours' END,
        CASE WHEN state = 'received' THEN created_at + interval '1 day' END,
        CASE WHEN state = 'cancelled' THEN created_at + interval '2 hours' END
    FROM decided ORDER BY n
), allocated AS (
    UPDATE app.offers AS o SET allocated = d.quantity
    FROM (SELECT offer_id, sum(quantity) AS quantity FROM decided WHERE state IN ('allocated', 'received')
        GROUP BY offer_id) AS d
    WHERE o.id = d.offer_id
)
INSERT INTO app.allocations (purchase_order_id, offer_id, quantity, score, explanation, created_at)
SELECT n, offer_id, quantity, round((0.5 + 0.5 * app.random_fraction(%(seed)s::bigint, 'score', n))::numeric, 5),
    jsonb_build_object('note', 'allocated when the data was generated'), created_at + interval '3 hours'
FROM decided WHERE state IN ('allocated', 'received') ORDER BY n;

-- name: seed_subscriptions
-- Subscriptions whose next date is today or later: a tenth is due today and a tenth tomorrow.
WITH buyer AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY id) AS place, count(*) OVER () AS all_of_them FROM app.users
        WHERE state = 'active'
), chosen AS (
    SELECT n, b.id AS user_id, b.country, b.zone, b.created_at, %(today)s::date AS today,
        %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight,
        app.random_fraction(%(seed)s::bigint, 'subscription state', n) AS state_roll,
        CASE WHEN n %% 10 IN (0, 1) THEN extract(day FROM %(today)s::date + (n %% 10)::integer)
             ELSE app.random_integer(%(seed)s::bigint, 'anchor', n, 1, 31) END::integer AS anchor_day,
        CASE WHEN n %% 10 IN (0, 1) OR app.random_fraction(%(seed)s::bigint, 'interval', n) < 0.7 THEN 1
            ELSE 3 END AS interval_months
    FROM generate_series(1, 75 * %(scale)s::bigint) AS n
    JOIN buyer AS b ON b.place = app.random_integer(%(seed)s::bigint, 'subscriber', n, 1,
        (SELECT count(*) FROM app.users WHERE state = 'active'))
), started AS (
    SELECT *, app.anchor_date((created_at AT TIME ZONE 'UTC' + interval '1 month')::date, anchor_day) AS started_on,
        CASE country WHEN 'US' THEN 'USD' WHEN 'GB' THEN 'GBP' WHEN 'IN' THEN 'INR' WHEN 'JP' THEN 'JPY'
            WHEN 'BR' THEN 'BRL' ELSE 'EUR' END AS currency,
        CASE WHEN state_roll < 0.8 THEN 'active' WHEN state_roll < 0.9 THEN 'paused'
            ELSE 'cancelled' END::app.subscription_state AS state,
        created_at + interval '1 day' + (midnight - created_at - interval '1 day') * app.random_fraction(%(seed)s::bigint,
            'state since', n) AS since
    FROM chosen
)
INSERT INTO app.subscriptions (user_id, product_id, quantity, unit_price_minor, currency, interval_months, anchor_day,
    zone, state,
    started_on, next_on, skip_next, created_at, paused_at, resume_on, cancelled_at)
SELECT s.user_id, p.product_id, app.random_integer(%(seed)s::bigint, 'subscribed', n, 1, 3), p.amount_minor, s.currency,
    s.interval_months,
    s.anchor_day, s.zone, s.state, s.started_on,
    CASE WHEN s.state <> 'cancelled' THEN (
        SELECT min(day) FROM generate_series(0, 30) AS cycle
        CROSS JOIN LATERAL app.anchor_date((date_trunc('month',
            s.started_on::timestamp) + cycle * s.interval_months * interval '1 month')::date,
                                        s.anchor_day) AS day
        WHERE day >= s.today) END,
    s.state <> 'cancelled' AND app.random_fraction(%(seed)s::bigint, 'skips', n) < 0.03, s.created_at + interval '1 day',
    CASE WHEN s.state = 'paused' THEN s.since END,
    CASE WHEN s.state = 'paused'
        AND n %% 2 = 0 THEN s.today + app.random_integer(%(seed)s::bigint, 'resumes', n, 3, 60)::integer END,
    CASE WHEN s.state = 'cancelled' THEN s.since END
FROM started AS s
JOIN app.product_prices AS p ON p.currency = s.currency
    AND p.product_id = app.random_integer(%(seed)s::bigint, 'subscribed product', n, 1, 40 * %(scale)s::bigint)
ORDER BY n;

-- name: seed_orders
-- Orders with their lines: those that users placed, half of them from a cart, and one for each subscription's last cycle.
WITH buyer AS MATERIALIZED (
    SELECT *, row_number() OVER (ORDER BY id) AS place, %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight
    FROM app.users WHERE state = 'active'
), placed AS (
    SELECT n, b.id AS user_id, b.country, b.midnight, NULL::bigint AS subscription_id, NULL::date AS cycle_on,
        b.created_at + interval '1 hour'
            + (b.midnight - b.created_at - interval '2 hours') * app.random_fraction(%(seed)s::bigint, 'placed', n) AS placed_at
    FROM generate_series(1, 350 * %(scale)s::bigint) AS n
    JOIN buyer AS b ON b.place = app.random_integer(%(seed)s::bigint, 'buyer', n, 1, (SELECT count(*) FROM buyer))
    UNION ALL
    SELECT 350 * %(scale)s::bigint + row_number() OVER (ORDER BY s.id), s.user_id, b.country, b.midnight, s.id,
        cycle.day,
        cycle.day::timestamp AT TIME ZONE 'UTC' + interval '5 minutes'
    FROM app.subscriptions AS s
    JOIN buyer AS b ON b.id = s.user_id
    CROSS JOIN LATERAL app.anchor_date((s.next_on - s.interval_months * interval '1 month')::date,
        s.anchor_day) AS cycle (day)
    WHERE cycle.day >= s.started_on AND cycle.day < %(today)s::date
), aged AS (
    SELECT *, midnight - placed_at AS age, least(midnight - placed_at, interval '10 days') AS life,
        app.random_fraction(%(seed)s::bigint, 'order state', n) AS r, app.random_fraction(%(seed)s::bigint, 'order way', n) AS way,
        CASE country WHEN 'US' THEN 'USD' WHEN 'GB' THEN 'GBP' WHEN 'IN' THEN 'INR' WHEN 'JP' THEN 'JPY'
            WHEN 'BR' THEN 'BRL' ELSE 'EUR' END AS currency,
        CASE country WHEN 'DE' THEN 1900 WHEN 'FR' THEN 2000 WHEN 'GB' THEN 2000 WHEN 'IN' THEN 1800 WHEN 'JP' THEN 1000
            ELSE 0 END AS tax_rate
    FROM placed
), decided AS (
    SELECT *, (CASE
        WHEN age > interval '14 days' THEN CASE WHEN r < 0.86 THEN 'delivered' WHEN r < 0.94 THEN 'cancelled'
            ELSE 'refunded' END
        WHEN r < 0.15 THEN 'pending' WHEN r < 0.30 THEN 'reserved' WHEN r < 0.40 THEN 'paid'
            WHEN r < 0.55 THEN 'confirmed'
        WHEN r < 0.75 THEN 'shipped' WHEN r < 0.90 THEN 'delivered' WHEN r < 0.96 THEN 'cancelled'
            ELSE 'refunded' END)::app.order_state AS state
    FROM aged
), moved AS MATERIALIZED (
    SELECT *,
        state NOT IN ('pending', 'cancelled') OR state = 'cancelled' AND way < 0.5 AS is_reserved,
        state NOT IN ('pending', 'reserved', 'cancelled') AS is_paid,
        state IN ('confirmed', 'shipped', 'delivered') OR state = 'refunded' AND way < 0.7 AS is_confirmed,
        state IN ('shipped', 'delivered') OR state = 'refunded' AND way < 0.5 AS is_shipped,
        state = 'delivered' OR state = 'refunded' AND way < 0.4 AS is_delivered
    FROM decided
), line AS MATERIALIZED (
    SELECT m.n, number, m.tax_rate, coalesce(s.product_id, p.product_id) AS product_id,
        coalesce(s.quantity, app.random_integer(%(seed)s::bigint, 'quantity', m.n * 8 + number, 1, 3)) AS quantity,
        coalesce(s.unit_price_minor, p.amount_minor) AS unit_price_minor
    FROM moved AS m
    LEFT JOIN app.subscriptions AS s ON s.id = m.subscription_id
    CROSS JOIN LATERAL generate_series(1, CASE WHEN s.id IS NULL THEN app.random_integer(%(seed)s::bigint, 'lines', m.n, 1, 4)
        ELSE 1 END) AS number
    LEFT JOIN app.product_prices AS p ON s.id IS NULL AND p.currency = m.currency
        AND p.product_id = app.random_integer(%(seed)s::bigint, 'product', m.n * 8 + number, 1, 40 * %(scale)s::bigint)
), total AS (
    SELECT n, sum(quantity * unit_price_minor) AS net,
        sum((quantity * unit_price_minor * tax_rate + 5000) / 10000) AS tax
    FROM line GROUP BY n
), cart AS (
    INSERT INTO app.carts (user_id, state, created_at, updated_at, closed_at)
    SELECT user_id, 'ordered', placed_at - interval '30 minutes', placed_at - interval '5 minutes', placed_at
    FROM moved WHERE n %% 2 = 0 AND subscription_id IS NULL ORDER BY n
), created AS (
    INSERT INTO app.orders (number, user_id, cart_id, subscription_id, cycle_on, state, currency, net_minor, tax_minor,
        shipping_minor,
        ship_to_country, promised_on, carrier, tracking_number, placed_at, reserved_at, paid_at, confirmed_at,
            shipped_at, delivered_at,
        cancelled_at, refunded_at)
    SELECT 'O-' || lpad(n::text, 8, '0'), user_id, CASE WHEN n %% 2 = 0 AND subscription_id IS NULL THEN n / 2 END,
        subscription_id, cycle_on, state, currency, net, tax,
        CASE WHEN app.random_fraction(%(seed)s::bigint, 'free shipping', n) < 0.4 THEN 0
             ELSE CASE currency WHEN 'INR' THEN 9900 WHEN 'JPY' THEN 600 WHEN 'BRL' THEN 1990 ELSE 490 END END,
        country, (placed_at AT TIME ZONE 'UTC')::date + 5,
        CASE WHEN is_shipped THEN (ARRAY['parcel_one', 'quick_post'])[1 + n %% 2] END,
            CASE WHEN is_shipped THEN 'T' || lpad(n::text, 10, '0') END,
        placed_at, CASE WHEN is_reserved THEN placed_at + life * 0.01 END,
            CASE WHEN is_paid THEN placed_at + life * 0.02 END,
        CASE WHEN is_confirmed THEN placed_at + life * 0.03 END,
        CASE WHEN is_shipped THEN placed_at + life * (0.1 + 0.15 * app.random_fraction(%(seed)s::bigint, 'shipped', n)) END,
        CASE WHEN is_delivered THEN placed_at + life * (0.3 + 0.4 * app.random_fraction(%(seed)s::bigint, 'delivered', n)) END,
        CASE WHEN state = 'cancelled' THEN placed_at + life * 0.1 END,
            CASE WHEN state = 'refunded' THEN placed_at + life * 0.9 END
    FROM moved JOIN total USING (n) ORDER BY n
)
INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)
SELECT n, number, product_id, 'Product ' || lpad(product_id::text, 6, '0'), quantity, unit_price_minor, tax_rate
    FROM line ORDER BY n, number;

-- name: seed_order_history
-- The transitions of all orders but the pending ones, whose history the trigger has recorded.
INSERT INTO app.order_history (order_id, from_state, to_state, at)
SELECT o.id, move.from_state::app.order_state, move.to_state::app.order_state, move.at
FROM app.orders AS o
CROSS JOIN LATERAL (VALUES
    (1, NULL, 'pending', o.placed_at), (2, 'pending', 'reserved', o.reserved_at), (3, 'reserved', 'paid', o.paid_at),
    (4, 'paid', 'confirmed', o.confirmed_at), (5, 'confirmed', 'shipped', o.shipped_at),
        (6, 'shipped', 'delivered', o.delivered_at),
    (7, CASE WHEN o.reserved_at IS NULL THEN 'pending' ELSE 'reserved' END, 'cancelled', o.cancelled_at),
    (8, CASE WHEN o.delivered_at IS NOT NULL THEN 'delivered' WHEN o.shipped_at IS NOT NULL THEN 'shipped'
             WHEN o.confirmed_at IS NOT NULL THEN 'confirmed' ELSE 'paid' END, 'refunded', o.refunded_at)
) AS move (step, from_state, to_state, at)
WHERE o.state <> 'pending' AND move.at IS NOT NULL ORDER BY o.id, move.step;

-- name: seed_order_reminders
-- Reminders of unpaid orders, and some requests for a review.
INSERT INTO app.order_reminders (order_id, stage, reminded_at)
SELECT id, 'payment_missing'::app.reminder_stage, placed_at + interval '1 day' FROM app.orders
WHERE state = 'reserved' AND placed_at < %(today)s::date::timestamp AT TIME ZONE 'UTC' - interval '1 day'
    AND id %% 2 = 0
UNION ALL
SELECT id, 'review', delivered_at + (%(today)s::date::timestamp AT TIME ZONE 'UTC' - delivered_at) * 0.5 FROM app.orders
WHERE state = 'delivered' AND app.random_fraction(%(seed)s::bigint, 'review', id) < 0.2;

-- name: seed_carts
-- Open carts (some older than 30 days, some empty), abandoned ones, and their lines.
WITH created AS (
    INSERT INTO app.carts (user_id, state, created_at, updated_at, closed_at)
    SELECT u.id, (CASE WHEN u.id %% 10 < 4 THEN 'open' ELSE 'abandoned' END)::app.cart_state, since,
        since + (midnight - since) * 0.01,
        CASE WHEN u.id %% 10 >= 4 THEN since + (midnight - since) * 0.5 END
    FROM app.users AS u
    CROSS JOIN LATERAL (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight) AS now
    CROSS JOIN LATERAL (SELECT greatest(u.created_at,
        midnight - 60 * app.random_fraction(%(seed)s::bigint, 'cart', u.id) * interval '1 day') AS since) AS cart
    WHERE u.state = 'active' AND u.id %% 10 < 6 ORDER BY u.id
    RETURNING id
), filled AS (
    SELECT DISTINCT created.id,
        app.random_integer(%(seed)s::bigint, 'cart product', created.id * 4 + number, 1, 40 * %(scale)s::bigint) AS product_id
    FROM created CROSS JOIN generate_series(1, 3) AS number
    WHERE app.random_fraction(%(seed)s::bigint, 'cart empty', created.id) > 0.2
)
INSERT INTO app.cart_lines (cart_id, product_id, quantity)
SELECT id, product_id, app.random_integer(%(seed)s::bigint, 'cart quantity', id, 1, 3) FROM filled
UNION ALL
SELECT o.cart_id, l.product_id, sum(l.quantity) FROM app.orders AS o JOIN app.order_lines AS l ON l.order_id = o.id
WHERE o.cart_id IS NOT NULL GROUP BY o.cart_id, l.product_id
ORDER BY 1, 2;

-- name: seed_stock
-- Stock movements (received, sold, returned), and the resulting stock of each product.
WITH sold AS MATERIALIZED (
    SELECT l.product_id, 'sold'::app.movement_reason AS reason, -l.quantity AS quantity, l.id AS line_id,
        o.shipped_at AS at
    FROM app.orders AS o JOIN app.order_lines AS l ON l.order_id = o.id WHERE o.shipped_at IS NOT NULL
    UNION ALL
    SELECT l.product_id, 'returned', l.quantity, l.id, o.refunded_at
    FROM app.orders AS o JOIN app.order_lines AS l ON l.order_id = o.id WHERE o.state = 'refunded'
        AND o.delivered_at IS NOT NULL
), reserved AS (
    SELECT l.product_id, sum(l.quantity) AS quantity FROM app.orders AS o JOIN app.order_lines AS l ON l.order_id = o.id
    WHERE o.state IN ('reserved', 'paid', 'confirmed') GROUP BY l.product_id
), level AS MATERIALIZED (
    SELECT p.id, coalesce(a.quantity, 0) AS reserved, coalesce(m.net, 0) AS net,
        1 + coalesce(a.quantity, 0) - coalesce(m.gone, 0) + app.random_integer(%(seed)s::bigint, 'surplus', p.id, 0,
            200) AS received
    FROM app.products AS p
    LEFT JOIN reserved AS a ON a.product_id = p.id
    LEFT JOIN (SELECT product_id, sum(quantity) AS net, sum(quantity) FILTER (WHERE reason = 'sold') AS gone FROM sold
        GROUP BY product_id)
        AS m ON m.product_id = p.id
), counted AS (
    UPDATE app.products AS p SET stock = level.received + level.net, reserved = level.reserved FROM level
        WHERE level.id = p.id
)
INSERT INTO app.stock_movements (product_id, reason, quantity, order_line_id, at)
SELECT id, 'received'::app.movement_reason, received, NULL::bigint,
    %(today)s::date::timestamp AT TIME ZONE 'UTC' - interval '890 days'
FROM level
UNION ALL
SELECT product_id, reason, quantity, line_id, at FROM sold
ORDER BY 5, 4, 1;

-- name: seed_payments
-- A payment of each order that was reserved. Completed payments of the last month are Razorpay's: the sandbox's Stripe account,
-- which reconciliation reads, starts empty. Payments that are still open are Stripe's, which does not know them yet.
WITH due AS (
    SELECT o.*, %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight,
        app.random_integer(%(seed)s::bigint, 'payment', o.id, 0, 2) AS fate,
        (CASE WHEN o.paid_at IS NULL AND o.cancelled_at IS NULL THEN 'stripe'
              WHEN o.currency = 'INR' OR o.placed_at > %(today)s::date - interval '30 days' THEN 'razorpay'
              ELSE 'stripe' END)::app.payment_provider AS provider
    FROM app.orders AS o WHERE o.reserved_at IS NOT NULL
), decided AS (
    SELECT *, (CASE
        WHEN paid_at IS NOT NULL THEN 'captured' WHEN cancelled_at IS NOT NULL THEN 'abandoned'
        ELSE (ARRAY['pending', 'requires_action', 'failed'])[1 + fate] END)::app.payment_state AS payment_state
    FROM due
), failing AS (
    SELECT *, CASE payment_state
        WHEN 'abandoned' THEN reserved_at + (cancelled_at - reserved_at) * 0.5
        WHEN 'failed' THEN reserved_at + (midnight - reserved_at) * 0.1 END AS failed_at
    FROM decided
)
INSERT INTO app.payments (order_id, provider, provider_reference, idempotency_key, method_reference, amount_minor,
    refunded_minor, currency,
    state, attempts, decline_kind, decline_code, created_at, captured_at, failed_at, next_attempt_at, abandoned_at)
SELECT id, provider,
    CASE WHEN payment_state IN ('captured', 'abandoned') THEN (CASE provider WHEN 'stripe' THEN 'pi_'
        ELSE 'pay_' END) || 'seed' || lpad(id::text, 10, '0') END,
    'order-' || number, 'pm_seed' || lpad(user_id::text, 10, '0'), total_minor,
        CASE WHEN state = 'refunded' THEN total_minor ELSE 0 END, currency,
    payment_state, CASE WHEN payment_state = 'pending' THEN 0 WHEN payment_state = 'captured' AND fate = 0 THEN 2
        ELSE 1 END,
    (CASE payment_state WHEN 'failed' THEN 'soft' WHEN 'abandoned' THEN 'hard' END)::app.decline_kind,
    CASE payment_state WHEN 'failed' THEN 'insufficient_funds' WHEN 'abandoned' THEN 'stolen_card' END,
    reserved_at, paid_at, failed_at,
        CASE WHEN payment_state = 'failed' THEN greatest(midnight, failed_at + interval '1 hour') END,
    CASE WHEN payment_state = 'abandoned' THEN cancelled_at END
FROM failing ORDER BY id;

-- name: seed_payment_attempts
-- Every attempt of each payment; one in three captured payments was declined first.
INSERT INTO app.payment_attempts (payment_id, number, started_at, ended_at, outcome, decline_kind, decline_code)
SELECT p.id, number,
    CASE WHEN is_last THEN ended_at - (ended_at - p.created_at) * 0.1 ELSE p.created_at END,
    CASE WHEN is_last THEN ended_at ELSE p.created_at + (ended_at - p.created_at) * 0.5 END,
    (CASE WHEN NOT is_last THEN 'declined' WHEN p.state = 'captured' THEN 'captured'
        WHEN p.state = 'requires_action' THEN 'requires_action'
          ELSE 'declined' END)::app.attempt_outcome,
    CASE WHEN NOT is_last THEN 'soft' ELSE p.decline_kind END, CASE WHEN NOT is_last THEN 'insufficient_funds'
        ELSE p.decline_code END
FROM app.payments AS p
CROSS JOIN LATERAL (SELECT coalesce(p.captured_at, p.failed_at, p.created_at + interval '1 second') AS ended_at) AS at
CROSS JOIN LATERAL generate_series(1, p.attempts) AS number
CROSS JOIN LATERAL (SELECT number = p.attempts AS is_last) AS last
ORDER BY p.id, number;

-- name: seed_refunds
-- The full refunds of refunded orders.
INSERT INTO app.refunds (payment_id, provider_reference, amount_minor, currency, reason, state, created_at, ended_at)
SELECT p.id, 're_seed' || lpad(p.id::text, 10, '0'), p.amount_minor, p.currency,
    CASE WHEN o.delivered_at IS NULL THEN 'cancelled after payment' ELSE 'returned' END, 'succeeded',
    o.refunded_at - (o.refunded_at - coalesce(o.delivered_at, o.shipped_at, o.confirmed_at, o.paid_at)) * 0.1,
        o.refunded_at
FROM app.payments AS p JOIN app.orders AS o ON o.id = p.order_id WHERE o.state = 'refunded' ORDER BY p.id;

-- name: seed_payment_events
-- The providers' events about half of the payments.
INSERT INTO app.payment_events (provider, event_id, type, occurred_at, body, payment_id, received_at, processed_at)
SELECT provider, 'evt_seed' || lpad(id::text, 10, '0'), CASE provider WHEN 'stripe' THEN 'payment_intent.succeeded'
    ELSE 'payment.captured' END,
    captured_at, jsonb_build_object('id', provider_reference, 'amount', amount_minor, 'currency', lower(currency)), id,
    captured_at + interval '1 second', captured_at + interval '2 seconds'
FROM app.payments WHERE state = 'captured' AND id %% 2 = 0 ORDER BY captured_at, id;

-- name: seed_invoices
-- An invoice of each paid order and a credit note of each refunded one, numbered by year in chronological order.
WITH document AS (
    SELECT o.id AS order_id, 'invoice'::app.invoice_kind AS kind, o.paid_at AS issued_at FROM app.orders AS o
        WHERE o.paid_at IS NOT NULL
    UNION ALL
    SELECT o.id, 'credit_note', o.refunded_at FROM app.orders AS o WHERE o.state = 'refunded'
), placed AS (
    SELECT *, (CASE kind WHEN 'invoice' THEN 'INV-' ELSE 'CRN-' END) || to_char(issued_at AT TIME ZONE 'UTC',
        'YYYY') AS series,
        row_number() OVER (ORDER BY issued_at, kind, order_id) AS id
    FROM document
), numbered AS MATERIALIZED (
    SELECT *, row_number() OVER (PARTITION BY series ORDER BY id) AS number,
        CASE WHEN kind = 'credit_note' THEN min(id) OVER (PARTITION BY order_id) END AS credits_id
    FROM placed
), series AS (
    INSERT INTO app.invoice_series (name, last_number) SELECT series, count(*) FROM numbered GROUP BY series
)
INSERT INTO app.invoices (series, number, kind, order_id, credits_id, currency, net_minor, tax_minor, language,
    buyer_name, buyer_email, buyer_country, issued_at)
SELECT i.series, i.number, i.kind, o.id, i.credits_id, o.currency, o.net_minor + o.shipping_minor, o.tax_minor,
    u.language, u.name, u.email,
    o.ship_to_country, i.issued_at
FROM numbered AS i JOIN app.orders AS o ON o.id = i.order_id JOIN app.users AS u ON u.id = o.user_id ORDER BY i.id;

-- name: seed_invoice_lines
-- The orders' lines, and shipping where it was charged.
INSERT INTO app.invoice_lines (invoice_id, number, description, quantity, unit_price_minor, tax_rate)
SELECT i.id, l.number, l.description, l.quantity, l.unit_price_minor, l.tax_rate
FROM app.invoices AS i JOIN app.order_lines AS l ON l.order_id = i.order_id
UNION ALL
SELECT i.id, (SELECT max(l.number) + 1 FROM app.order_lines AS l WHERE l.order_id = o.id), 'Shipping', 1,
    o.shipping_minor, 0
FROM app.invoices AS i JOIN app.orders AS o ON o.id = i.order_id WHERE o.shipping_minor > 0
ORDER BY 1, 2;

-- name: seed_audit_log
-- Four months of logins and staff actions, with incidents to detect on the last day: password guessing from one address, and
-- logins from distant places within a short time. IP addresses are from the ranges reserved for documentation.
WITH spot (country, latitude, longitude) AS (VALUES
    ('US', 40.7, -74.0), ('GB', 51.5, -0.1), ('DE', 52.5, 13.4), ('FR', 48.9, 2.4), ('IN', 28.6, 77.2),
        ('JP', 35.7, 139.7), ('BR', -23.5, -46.6)
), person AS MATERIALIZED (
    SELECT u.*, row_number() OVER (ORDER BY u.id) AS place, %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight
    FROM app.users AS u WHERE u.state = 'active'
), usual AS (
    SELECT n, p.id AS user_id, p.email, p.country, app.random_fraction(%(seed)s::bigint, 'action', n) AS r, p.is_admin,
        greatest(p.created_at, p.midnight - 120 * app.random_fraction(%(seed)s::bigint, 'audit', n) * interval '1 day') AS at
    FROM generate_series(1, 500 * %(scale)s::bigint) AS n
    -- One in ten entries is an admin's.
    JOIN person AS p ON p.place = CASE WHEN n %% 10 = 0 THEN 1 + n / 10 %% 3
                                       ELSE app.random_integer(%(seed)s::bigint, 'audit user', n, 1,
                                           (SELECT count(*) FROM person)) END
), entry AS (
    SELECT at, n, user_id, email, country, inet '192.0.2.0' + user_id %% 256 AS ip,
        CASE WHEN is_admin AND r < 0.6 THEN (ARRAY['order.refunded', 'role.granted', 'user.deactivated',
            'product.priced'])[1 + floor(r / 0.15)::integer]
             WHEN r < 0.95 THEN 'user.login' ELSE 'user.password_changed' END AS action,
        (CASE WHEN NOT is_admin AND r < 0.1 THEN 'failure' WHEN is_admin AND r < 0.02 THEN 'denied'
            ELSE 'success' END)::app.audit_outcome AS outcome
    FROM usual
    UNION ALL
    SELECT p.midnight - interval '5 hours' + attempt * interval '7 seconds', n * 100 + attempt, p.id, p.email, 'BR',
        inet '203.0.113.0' + n %% 256,
        'user.login', 'failure'
    FROM generate_series(1, %(scale)s::bigint) AS n CROSS JOIN generate_series(1, 15) AS attempt
        JOIN person AS p ON p.place = 10 + n
    UNION ALL
    SELECT p.midnight - interval '3 hours' + leg * interval '20 minutes', n * 100 + leg, p.id, p.email,
        (ARRAY['DE', 'JP'])[leg], inet '198.51.100.0' + leg,
        'user.login', 'success'
    FROM generate_series(1, %(scale)s::bigint) AS n CROSS JOIN generate_series(1, 2) AS leg
        JOIN person AS p ON p.place = 30 + n
)
INSERT INTO app.audit_log (at, user_id, identity, action, target, outcome, ip, country, latitude, longitude, user_agent)
SELECT e.at, e.user_id, e.email, e.action,
    CASE split_part(e.action, '.', 1) WHEN 'order' THEN 'order:' || 1 + e.n %% (350 * %(scale)s::bigint)
        WHEN 'product' THEN 'product:' || 1 + e.n %% (40 * %(scale)s::bigint)
            WHEN 'role' THEN 'user:' || 2 + e.n %% (100 * %(scale)s::bigint)
        ELSE 'user:' || e.user_id END,
    e.outcome, e.ip, e.country, spot.latitude, spot.longitude, 'Browser/1.0 (desktop)'
FROM entry AS e JOIN spot USING (country) ORDER BY e.at, e.n, e.action;

-- name: seed_events
-- What users viewed in the last 120 days, and every order as the end of a funnel.
WITH person AS MATERIALIZED (
    SELECT u.id, u.created_at, row_number() OVER (ORDER BY u.id) AS place,
        %(today)s::date::timestamp AT TIME ZONE 'UTC' AS midnight
    FROM app.users AS u WHERE u.state = 'active'
), happened AS (
    SELECT greatest(p.created_at, p.midnight - 120 * app.random_fraction(%(seed)s::bigint, 'event', n) * interval '1 day') AS at,
        n, p.id AS user_id,
        CASE WHEN r < 0.4 THEN 'visited' WHEN r < 0.75 THEN 'product_viewed' WHEN r < 0.9 THEN 'cart_filled'
            ELSE 'checkout_started' END AS name,
        CASE WHEN r BETWEEN 0.4 AND 0.9 THEN app.random_integer(%(seed)s::bigint, 'event product', n, 1,
            40 * %(scale)s::bigint) END AS product_id,
        NULL::bigint AS order_id
    FROM generate_series(1, 800 * %(scale)s::bigint) AS n
    CROSS JOIN LATERAL (SELECT app.random_fraction(%(seed)s::bigint, 'event name', n) AS r) AS rolled
    JOIN person AS p ON p.place = app.random_integer(%(seed)s::bigint, 'event user', n, 1, (SELECT count(*) FROM person))
    UNION ALL
    SELECT placed_at, id, user_id, 'order_placed', NULL, id FROM app.orders
)
INSERT INTO app.events (at, user_id, name, product_id, order_id)
SELECT at, user_id, name::app.event_name, product_id, order_id FROM happened ORDER BY at, name, n;

-- name: seed_integrations
-- Four systems with three resources each; one system is inactive.
WITH created AS (
    INSERT INTO app.integrations (name, kind, base_url, credential, is_active, created_at)
    SELECT kind || '_main', kind, 'https://' || kind || '.example.com/api', kind || '_api', kind <> 'accounting',
        %(today)s::date::timestamp AT TIME ZONE 'UTC' - interval '400 days'
    FROM unnest(enum_range(NULL::app.integration_kind)) AS kind ORDER BY kind
    RETURNING id
)
INSERT INTO app.integration_endpoints (integration_id, resource, path, pushes)
SELECT id, resource, '/v1/' || resource, resource = 'customers'
FROM created CROSS JOIN unnest(ARRAY['customers', 'items', 'shipments']) AS resource ORDER BY id, resource;

-- name: seed_integration_records
-- Records pulled so far; some were deleted remotely, some changed locally.
INSERT INTO app.integration_records (endpoint_id, external_id, version, data, changed_at, local_at, synced_at,
    deleted_at)
SELECT 1 + n %% 12, 'X' || lpad(n::text, 8, '0'), '1', jsonb_build_object('name', 'Record ' || n), changed_at,
    CASE WHEN n %% 40 = 0 THEN changed_at + interval '2 hours' END, changed_at + interval '1 hour',
    CASE WHEN n %% 33 = 0 THEN changed_at END
FROM generate_series(1, 200 * %(scale)s::bigint) AS n
CROSS JOIN LATERAL (SELECT %(today)s::date::timestamp AT TIME ZONE 'UTC'
    - (1 + 90 * app.random_fraction(%(seed)s::bigint, 'changed', n)) * interval '1 day' AS changed_at) AS at
ORDER BY n;

-- name: invariant_violations
-- Violated rules across tables, with the number of rows that violate each; no row if all hold.
SELECT rule, broken FROM (
    SELECT 'an order''s totals are the sums of its lines' AS rule, count(*) AS broken
    FROM app.orders AS o LEFT JOIN (
        SELECT order_id, sum(net_minor) AS net, sum(tax_minor) AS tax FROM app.order_lines
            GROUP BY order_id) AS l ON l.order_id = o.id
    WHERE (o.net_minor, o.tax_minor) IS DISTINCT FROM (l.net, l.tax)
    UNION ALL
    SELECT 'an order is paid if and only if its full amount was captured', count(*)
    FROM app.orders AS o LEFT JOIN app.payments AS p ON p.order_id = o.id AND p.state = 'captured'
    WHERE (o.paid_at IS NOT NULL) <> (p.id IS NOT NULL) OR p.amount_minor <> o.total_minor
    UNION ALL
    SELECT 'a payment''s refunded amount is the sum of its refunds', count(*)
    FROM app.payments AS p LEFT JOIN (
        SELECT payment_id, sum(amount_minor) AS back FROM app.refunds WHERE state = 'succeeded'
            GROUP BY payment_id) AS r ON r.payment_id = p.id
    WHERE p.refunded_minor <> coalesce(r.back, 0)
    UNION ALL
    SELECT 'a refunded order has a payment that was refunded in full', count(*)
    FROM app.orders AS o JOIN app.payments AS p ON p.order_id = o.id AND p.state = 'captured'
    WHERE (o.state = 'refunded') <> (p.refunded_minor = p.amount_minor)
    UNION ALL
    SELECT 'a payment counts its attempts, and a captured one has a captured attempt', count(*)
    FROM app.payments AS p LEFT JOIN (
        SELECT payment_id, count(*) AS attempts, max(ended_at) FILTER (WHERE outcome = 'captured') AS captured_at
        FROM app.payment_attempts GROUP BY payment_id) AS t ON t.payment_id = p.id
    WHERE p.attempts <> coalesce(t.attempts, 0) OR p.captured_at IS DISTINCT FROM t.captured_at
    UNION ALL
    SELECT 'a product''s stock is the sum of its movements', count(*)
    FROM app.products AS p
        LEFT JOIN (SELECT product_id, sum(quantity) AS net FROM app.stock_movements
        GROUP BY product_id) AS m ON m.product_id = p.id
    WHERE p.stock <> coalesce(m.net, 0)
    UNION ALL
    SELECT 'a product''s reserved quantity is that of its open orders', count(*)
    FROM app.products AS p LEFT JOIN (
        SELECT l.product_id, sum(l.quantity) AS quantity FROM app.orders AS o
            JOIN app.order_lines AS l ON l.order_id = o.id
        WHERE o.state IN ('reserved', 'paid', 'confirmed') GROUP BY l.product_id) AS w ON w.product_id = p.id
    WHERE p.reserved <> coalesce(w.quantity, 0)
    UNION ALL
    SELECT 'an order line has a sale movement if and only if its order was shipped', count(*)
    FROM app.orders AS o JOIN app.order_lines AS l ON l.order_id = o.id
    LEFT JOIN app.stock_movements AS m ON m.order_line_id = l.id AND m.reason = 'sold'
    WHERE (o.shipped_at IS NOT NULL) <> (m.id IS NOT NULL) OR m.quantity <> -l.quantity OR m.product_id <> l.product_id
    UNION ALL
    SELECT 'an order''s history leads step by step to its state', count(*)
    FROM (SELECT o.id FROM app.orders AS o LEFT JOIN (
            SELECT *, lag(to_state) OVER transitions AS came_from, lag(at) OVER transitions AS before,
                lead(id) OVER transitions AS next
            FROM app.order_history WINDOW transitions AS (PARTITION BY order_id ORDER BY id)) AS h ON h.order_id = o.id
          WHERE h.id IS NULL OR h.from_state IS DISTINCT FROM h.came_from OR h.at < h.before OR h.next IS NULL
              AND h.to_state <> o.state) AS wrong
    UNION ALL
    SELECT 'a paid order has an invoice of its total, a refunded one a credit note', count(*)
    FROM app.orders AS o LEFT JOIN app.invoices AS i ON i.order_id = o.id AND i.kind = 'invoice'
        LEFT JOIN app.invoices AS c ON c.credits_id = i.id
    WHERE (o.paid_at IS NOT NULL) <> (i.id IS NOT NULL) OR i.total_minor <> o.total_minor
       OR (o.state = 'refunded') <> (c.id IS NOT NULL) OR c.total_minor <> o.total_minor
    UNION ALL
    SELECT 'an invoice''s sums are those of its lines', count(*)
    FROM app.invoices AS i LEFT JOIN (
        SELECT invoice_id, sum(net_minor) AS net, sum(tax_minor) AS tax FROM app.invoice_lines
            GROUP BY invoice_id) AS l ON l.invoice_id = i.id
    WHERE (i.net_minor, i.tax_minor) IS DISTINCT FROM (l.net, l.tax)
    UNION ALL
    SELECT 'an invoice series stores its last number, and numbers follow time', count(*)
    FROM (SELECT s.name FROM app.invoice_series AS s LEFT JOIN app.invoices AS i ON i.series = s.name
          GROUP BY s.name, s.last_number HAVING s.last_number <> coalesce(max(i.number), 0)
          UNION ALL
          SELECT series FROM (SELECT series, issued_at,
              lag(issued_at) OVER (PARTITION BY series ORDER BY number) AS before FROM app.invoices) AS i
          WHERE issued_at < before) AS wrong
    UNION ALL
    SELECT 'an offer''s allocated quantity is the sum of its allocations', count(*)
    FROM app.offers AS o LEFT JOIN (SELECT offer_id, sum(quantity) AS allocated FROM app.allocations
        GROUP BY offer_id) AS a ON a.offer_id = o.id
    WHERE o.allocated <> coalesce(a.allocated, 0)
    UNION ALL
    SELECT 'an allocated purchase order is allocated in full, to offers of its product', count(*)
    FROM app.purchase_orders AS p LEFT JOIN (
        SELECT a.purchase_order_id, sum(a.quantity) AS allocated, min(o.product_id) AS lowest, max(o.product_id) AS highest
        FROM app.allocations AS a JOIN app.offers AS o ON o.id = a.offer_id
            GROUP BY a.purchase_order_id) AS a ON a.purchase_order_id = p.id
    WHERE CASE WHEN p.state IN ('allocated', 'received') THEN (a.allocated, a.lowest, a.highest) IS DISTINCT
        FROM (p.quantity::bigint, p.product_id, p.product_id)
               ELSE a.allocated IS NOT NULL END
    UNION ALL
    SELECT 'a subscription''s dates are whole intervals after its start', count(*)
    FROM (SELECT s.started_on, s.interval_months, s.anchor_day, s.next_on AS day FROM app.subscriptions AS s
          UNION ALL
          SELECT s.started_on, s.interval_months, s.anchor_day, o.cycle_on FROM app.subscriptions AS s
              JOIN app.orders AS o ON o.subscription_id = s.id) AS cycle
    WHERE day < started_on OR day <> app.anchor_date(day, anchor_day)
       OR mod(12 * (extract(year FROM day) - extract(year FROM started_on)) + extract(month FROM day) - extract(month
           FROM started_on),
              interval_months) <> 0
    UNION ALL
    SELECT 'an order from a cart has the cart''s lines, and an ordered cart has an order', count(*)
    FROM (SELECT cart_id FROM (
            SELECT c.cart_id, c.product_id, c.quantity::bigint FROM app.cart_lines AS c
                JOIN app.orders AS o ON o.cart_id = c.cart_id
            EXCEPT
            SELECT o.cart_id, l.product_id, sum(l.quantity) FROM app.orders AS o
                JOIN app.order_lines AS l ON l.order_id = o.id
            WHERE o.cart_id IS NOT NULL GROUP BY 1, 2) AS other
          UNION ALL
          SELECT c.id FROM app.carts AS c LEFT JOIN app.orders AS o ON o.cart_id = c.id
              WHERE (c.state = 'ordered') <> (o.id IS NOT NULL)) AS wrong
    UNION ALL
    SELECT 'no user has activity from before the account was created', count(*)
    FROM (SELECT user_id, placed_at AS at FROM app.orders UNION ALL SELECT user_id, created_at FROM app.sessions
          UNION ALL SELECT user_id, created_at FROM app.tokens UNION ALL SELECT user_id, created_at FROM app.carts
          UNION ALL SELECT user_id, created_at FROM app.subscriptions UNION ALL SELECT user_id, at FROM app.audit_log
          UNION ALL SELECT user_id, at FROM app.events UNION ALL SELECT user_id, created_at FROM app.push_tokens
          UNION ALL SELECT user_id, received_at FROM app.privacy_requests) AS did
    JOIN app.users AS u ON u.id = did.user_id WHERE did.at < u.created_at
    UNION ALL
    SELECT 'no event lies in the future', count(*)
    FROM (SELECT state_since AS at FROM app.orders UNION ALL SELECT captured_at
        FROM app.payments UNION ALL SELECT issued_at FROM app.invoices
          UNION ALL SELECT at FROM app.audit_log UNION ALL SELECT at FROM app.events UNION ALL SELECT last_seen_at
              FROM app.sessions
          UNION ALL SELECT used_at FROM app.tokens UNION ALL SELECT at
              FROM app.stock_movements UNION ALL SELECT processed_at FROM app.payment_events
          UNION ALL SELECT reminded_at FROM app.order_reminders UNION ALL SELECT closed_at FROM app.carts) AS happened
    WHERE at > clock_timestamp()
) AS rules WHERE broken > 0 ORDER BY rule;
