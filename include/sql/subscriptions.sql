-- Subscriptions, in the app's own tables: edit these statements, or put your own into a file of the same name in the folder
-- `database.statements_folder` of the settings (docs/adopting.md). Names, parameters and result columns must stay.
-- "Today" is the day in the subscription's own zone at the moment `now`.

-- name: subscriptions_due
-- Subscriptions with ids from `first` to `last` for which something is due today: a cycle, or the end of a pause.
SELECT s.id, u.email::text AS email FROM app.subscriptions AS s JOIN app.users AS u ON u.id = s.user_id
CROSS JOIN LATERAL (SELECT (%(now)s::timestamptz AT TIME ZONE s.zone)::date AS today) AS there
WHERE s.id BETWEEN %(first)s::bigint AND %(last)s::bigint
  -- No zone is ahead of UTC's tomorrow: the index narrows the rows down before each row's own zone is used.
  AND (s.state = 'active' AND s.next_on <= (%(now)s::timestamptz AT TIME ZONE 'UTC')::date + 1
           AND s.next_on <= there.today AND (s.retry_on IS NULL OR s.retry_on <= there.today)
       OR s.state = 'paused' AND s.resume_on <= there.today)
ORDER BY s.id LIMIT %(batch_limit)s::bigint;

-- name: subscriptions_to_remind
-- Subscriptions above the id `after_id` that may have a cycle tomorrow of which the owner was not reminded; the rules decide.
SELECT s.id, u.email::text AS email FROM app.subscriptions AS s JOIN app.users AS u ON u.id = s.user_id
CROSS JOIN LATERAL (SELECT (%(now)s::timestamptz AT TIME ZONE s.zone)::date + 1 AS tomorrow) AS there
WHERE s.id > %(after_id)s::bigint AND u.state <> 'deactivated'
  AND (s.state = 'active' AND NOT s.skip_next AND s.retry_on IS NULL AND s.next_on = there.tomorrow
           AND s.next_on BETWEEN (%(now)s::timestamptz AT TIME ZONE 'UTC')::date
               AND (%(now)s::timestamptz AT TIME ZONE 'UTC')::date + 2
       OR s.state = 'paused' AND s.resume_on <= there.tomorrow)
  AND s.reminded_cycle_on IS DISTINCT FROM there.tomorrow
ORDER BY s.id LIMIT %(batch_limit)s::bigint;

-- name: subscription_lock
-- One subscription with its owner and product, locked until the transaction ends; no row if it does not exist. Fails at once with
-- 55P03 while another transaction has the lock. The tax rate is in basis points, by the country of the owner: the rates of
-- the reference app's data; use your own tax table here.
SELECT s.id, s.state::text AS state, s.anchor_day AS anchor_day, s.interval_months AS interval_months, s.next_on AS next_on,
    s.skip_next AS skip_next, s.retry_on AS retry_on, s.resume_on AS resume_on, s.reminded_cycle_on AS reminded_cycle_on,
    s.quantity AS quantity, s.unit_price_minor AS unit_price_minor, s.new_price_minor AS new_price_minor,
    s.new_price_from AS new_price_from, s.currency::text AS currency, s.user_id AS user_id, s.product_id AS product_id,
    s.zone::text AS zone, (%(now)s::timestamptz AT TIME ZONE s.zone)::date AS today,
    p.name AS product, p.retired_at IS NOT NULL AS product_is_retired,
    u.name AS name, u.email AS email, CASE WHEN 'sms' = ANY (u.channels) THEN u.phone END AS phone,
    u.language::text AS language, u.country::text AS country, u.state = 'deactivated' AS customer_is_deactivated,
    CASE u.country WHEN 'DE' THEN 1900 WHEN 'FR' THEN 2000 WHEN 'GB' THEN 2000 WHEN 'IN' THEN 1800 WHEN 'JP' THEN 1000
        ELSE 0 END AS tax_rate
FROM app.subscriptions AS s
JOIN app.users AS u ON u.id = s.user_id
JOIN app.products AS p ON p.id = s.product_id
WHERE s.id = %(id)s::bigint
FOR NO KEY UPDATE OF s NOWAIT;

-- name: order_place
-- Creates the order of a cycle with its line, and reserves its stock. No row, and no change, if there is not enough stock or
-- the cycle has its order already.
WITH held AS (
    UPDATE app.products SET reserved = reserved + %(quantity)s::integer
    WHERE id = %(product_id)s::bigint AND stock - reserved >= %(quantity)s::integer
      AND NOT EXISTS (SELECT FROM app.orders AS o
          WHERE o.subscription_id = %(subscription_id)s::bigint AND o.cycle_on = %(cycle_on)s::date)
    RETURNING id, name
), placed AS (
    INSERT INTO app.orders (number, user_id, subscription_id, cycle_on, currency, net_minor, tax_minor, ship_to_country)
    SELECT %(number)s::text, %(user_id)s::bigint, %(subscription_id)s::bigint, %(cycle_on)s::date, %(currency)s::text,
        %(net_minor)s::bigint, %(tax_minor)s::bigint, %(country)s::text
    FROM held
    RETURNING id, number, placed_at, total_minor
), line AS (
    INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)
    SELECT placed.id, 1, held.id, held.name, %(quantity)s::integer, %(unit_price_minor)s::bigint, %(tax_rate)s::integer
    FROM placed, held
)
SELECT id, number, placed_at, total_minor FROM placed;

-- name: order_reserve
-- Marks an order that was just placed as reserved: it waits for its payment.
UPDATE app.orders SET state = 'reserved', reserved_at = greatest(clock_timestamp(), placed_at) WHERE id = %(id)s::bigint;

-- name: order_for_cycle
-- The order of a cycle, if it has one.
SELECT o.id AS id, o.number AS number FROM app.orders AS o
WHERE o.subscription_id = %(subscription_id)s::bigint AND o.cycle_on = %(cycle_on)s::date;

-- name: subscription_advance
-- Moves a subscription to its next cycle, at the new price if that is valid by then, and ends a pause. With `retry_on` the
-- cycle is deferred until then.
UPDATE app.subscriptions SET state = 'active', paused_at = NULL, resume_on = NULL,
    skip_next = skip_next AND next_on = %(next_on)s::date, next_on = %(next_on)s::date, retry_on = %(retry_on)s::date,
    unit_price_minor = CASE WHEN %(applies_new_price)s::boolean THEN new_price_minor ELSE unit_price_minor END,
    new_price_minor = CASE WHEN NOT %(applies_new_price)s::boolean THEN new_price_minor END,
    new_price_from = CASE WHEN NOT %(applies_new_price)s::boolean THEN new_price_from END
WHERE id = %(id)s::bigint;

-- name: subscription_mark_reminded
-- Stores that the owner was reminded of a cycle, which becomes the next one: for a pause that ends by then.
UPDATE app.subscriptions SET skip_next = skip_next AND next_on = %(cycle_on)s::date, next_on = %(cycle_on)s::date,
    reminded_cycle_on = %(cycle_on)s::date
WHERE id = %(id)s::bigint;
