-- Purchase orders and suppliers' offers, in the app's own tables: edit these statements, or put your own into a file of the
-- same name in the folder `database.statements_folder` (docs/adopting.md). Names, parameters and result columns must stay.

-- name: purchase_orders_lock
-- Open purchase orders, those that are needed first first, locked until the transaction ends; those that another run has are
-- left out. `days_left`: whole days until they are needed, by the calendar of UTC.
SELECT p.id, p.product_id, p.quantity, p.region::text AS region, p.currency::text AS currency, p.max_price_minor,
    p.needed_by - (clock_timestamp() AT TIME ZONE 'UTC')::date AS days_left
FROM app.purchase_orders AS p WHERE p.state = 'open'
ORDER BY p.needed_by, p.id LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED;

-- name: open_purchase_orders_count
-- How many purchase orders are open.
SELECT count(*)::integer AS open FROM app.purchase_orders WHERE state = 'open';

-- name: suppliers_lock
-- Locks those who have an offer for one of the products, so that no other run counts on the same capacity. The offers are
-- read by a later statement, which sees what those have written who had the locks before.
SELECT s.id FROM app.suppliers AS s
WHERE s.is_active AND s.id IN (SELECT o.supplier_id FROM app.offers AS o WHERE o.product_id = ANY (%(products)s::bigint[]))
ORDER BY s.id FOR NO KEY UPDATE;

-- name: offers_lock
-- What these suppliers offer of these products now, locked. `capacity_left`: pieces that a supplier can still take in
-- hand; what was allocated and not yet received is in hand. `quality` is in thousandths.
SELECT o.id, o.supplier_id, o.product_id, o.unit_price_minor, o.currency::text AS currency, o.min_quantity,
    o.quantity - o.allocated AS quantity_left, o.lead_days, s.regions::text[] AS regions,
    (s.quality * 1000)::integer AS quality, s.capacity, s.capacity - coalesce(hand.pieces, 0)::integer AS capacity_left
FROM app.offers AS o
JOIN app.suppliers AS s ON s.id = o.supplier_id
LEFT JOIN (
    SELECT h.supplier_id, sum(a.quantity) AS pieces
    FROM app.purchase_orders AS p
    JOIN app.allocations AS a ON a.purchase_order_id = p.id
    JOIN app.offers AS h ON h.id = a.offer_id
    WHERE p.state = 'allocated' GROUP BY h.supplier_id) AS hand ON hand.supplier_id = s.id
WHERE o.supplier_id = ANY (%(suppliers)s::bigint[]) AND o.product_id = ANY (%(products)s::bigint[])
  AND o.valid @> clock_timestamp()
ORDER BY o.id FOR NO KEY UPDATE OF o;

-- name: allocations_create
-- Gives each order its offer, all or none: the allocation and why, what the offer has left, the order's state. Returns how
-- many orders were open and have one now.
WITH given AS (
    SELECT * FROM unnest(%(orders)s::bigint[], %(offers)s::bigint[], %(quantities)s::integer[], %(scores)s::numeric[],
        %(explanations)s::text[]::jsonb[]) AS g (order_id, offer_id, quantity, score, explanation)
), moved AS (
    UPDATE app.purchase_orders AS p
    SET state = 'allocated', allocated_at = greatest(clock_timestamp(), p.created_at)
    FROM given AS g WHERE p.id = g.order_id AND p.state = 'open'
    RETURNING p.id
), written AS (
    INSERT INTO app.allocations (purchase_order_id, offer_id, quantity, score, explanation)
    SELECT g.order_id, g.offer_id, g.quantity, g.score, g.explanation FROM given AS g JOIN moved ON moved.id = g.order_id
    RETURNING offer_id, quantity
), taken AS (
    UPDATE app.offers AS o SET allocated = o.allocated + w.quantity
    FROM (SELECT offer_id, sum(quantity)::integer AS quantity FROM written GROUP BY offer_id) AS w
    WHERE o.id = w.offer_id
)
SELECT count(*)::integer AS allocated FROM moved;
