-- Purchase orders and suppliers' offers in the app's own tables: edit these statements, or put your own into a file of the same
-- name in the folder `database.statements_folder` (docs/adopting.md). Keep names, parameters and result columns.

-- name: purchase_orders_lock
-- Open purchase orders, earliest deadline first, locked until the transaction ends; orders that another run has locked are left
-- out. `days_left`: days until the deadline, in UTC.
SELECT p.id, p.product_id, p.quantity, p.region::text AS region, p.currency::text AS currency, p.max_price_minor,
    p.needed_by - (clock_timestamp() AT TIME ZONE 'UTC')::date AS days_left
FROM app.purchase_orders AS p WHERE p.state = 'open'
ORDER BY p.needed_by, p.id LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED;

-- name: open_purchase_orders_count
-- Number of open purchase orders.
SELECT count(*)::integer AS open FROM app.purchase_orders WHERE state = 'open';

-- name: suppliers_lock
-- Locks the suppliers with an offer for one of the products, so that concurrent runs do not use the same capacity. The offers are
-- read by a later statement, which sees what previous holders of the locks have written.
SELECT s.id FROM app.suppliers AS s
WHERE s.is_active AND s.id IN (SELECT o.supplier_id FROM app.offers AS o WHERE o.product_id = ANY (%(products)s::bigint[]))
ORDER BY s.id FOR NO KEY UPDATE;

-- name: offers_lock
-- The current offers of these suppliers for these products, locked. `free_capacity`: the supplier's capacity without what is
-- allocated and not yet received. `quality` is in thousandths.
SELECT o.id, o.supplier_id, o.product_id, o.unit_price_minor, o.currency::text AS currency, o.min_quantity,
    o.quantity - o.allocated AS remaining, o.lead_days, s.regions::text[] AS regions,
    (s.quality * 1000)::integer AS quality, s.capacity, s.capacity - coalesce(in_progress.quantity, 0)::integer AS free_capacity
FROM app.offers AS o
JOIN app.suppliers AS s ON s.id = o.supplier_id
LEFT JOIN (
    SELECT f.supplier_id, sum(a.quantity) AS quantity
    FROM app.purchase_orders AS p
    JOIN app.allocations AS a ON a.purchase_order_id = p.id
    JOIN app.offers AS f ON f.id = a.offer_id
    WHERE p.state = 'allocated' GROUP BY f.supplier_id) AS in_progress ON in_progress.supplier_id = s.id
WHERE o.supplier_id = ANY (%(suppliers)s::bigint[]) AND o.product_id = ANY (%(products)s::bigint[])
  AND o.valid @> clock_timestamp()
ORDER BY o.id FOR NO KEY UPDATE OF o;

-- name: allocations_create
-- Allocates an offer to each order: inserts the allocations, updates the offers and the orders' states. Returns how many of the
-- orders were open.
WITH matched AS (
    SELECT * FROM unnest(%(orders)s::bigint[], %(offers)s::bigint[], %(quantities)s::integer[], %(scores)s::numeric[],
        %(explanations)s::text[]::jsonb[]) AS m (order_id, offer_id, quantity, score, explanation)
), allocated_orders AS (
    UPDATE app.purchase_orders AS p
    SET state = 'allocated', allocated_at = greatest(clock_timestamp(), p.created_at)
    FROM matched AS m WHERE p.id = m.order_id AND p.state = 'open'
    RETURNING p.id
), inserted AS (
    INSERT INTO app.allocations (purchase_order_id, offer_id, quantity, score, explanation)
    SELECT m.order_id, m.offer_id, m.quantity, m.score, m.explanation
    FROM matched AS m JOIN allocated_orders AS o ON o.id = m.order_id
    RETURNING offer_id, quantity
), updated_offers AS (
    UPDATE app.offers AS o SET allocated = o.allocated + i.quantity
    FROM (SELECT offer_id, sum(quantity)::integer AS quantity FROM inserted GROUP BY offer_id) AS i
    WHERE o.id = i.offer_id
)
SELECT count(*)::integer AS allocated FROM allocated_orders;
