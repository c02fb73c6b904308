-- Invoices and credit notes: issued, read for their papers, told of.

-- name: order_lock
-- The order, and whether it is paid and refunded; locked, so that two at once issue one invoice.
SELECT o.id, o.paid_at IS NOT NULL AS is_paid, o.state = 'refunded' AS is_refunded, o.ship_to_country AS country,
    u.language, u.zone
FROM app.orders AS o JOIN app.users AS u ON u.id = o.user_id
WHERE o.id = %(order_id)s::bigint
FOR NO KEY UPDATE OF o;

-- name: documents_of_order
-- Ids of the order's invoice and credit note, those that there are.
SELECT i.id, i.kind = 'credit_note' AS is_credit_note FROM app.invoices AS i
WHERE i.order_id = %(order_id)s::bigint ORDER BY i.id;

-- name: invoice_issue
-- The next invoice of a series, with the order's lines and its shipping. The series stays locked until the commit, and
-- the time is taken under that lock: numbers follow time, and one that is rolled back is given again. Returns its id.
WITH taken AS MATERIALIZED (
    SELECT app.next_invoice_number(%(series)s::text) AS number
), issued AS (
    INSERT INTO app.invoices (series, number, order_id, currency, net_minor, tax_minor, language, buyer_name,
        buyer_email, buyer_country, issued_at)
    SELECT %(series)s::text, t.number, o.id, o.currency, o.net_minor + o.shipping_minor, o.tax_minor, u.language, u.name,
        u.email, o.ship_to_country, clock_timestamp()
    FROM taken AS t CROSS JOIN app.orders AS o JOIN app.users AS u ON u.id = o.user_id
    WHERE o.id = %(order_id)s::bigint
    RETURNING id, order_id
), lines AS (
    INSERT INTO app.invoice_lines (invoice_id, number, description, quantity, unit_price_minor, tax_rate)
    SELECT i.id, l.number, l.description, l.quantity, l.unit_price_minor, l.tax_rate
    FROM issued AS i JOIN app.order_lines AS l ON l.order_id = i.order_id
    UNION ALL
    SELECT i.id, (SELECT max(l.number) + 1 FROM app.order_lines AS l WHERE l.order_id = o.id), %(shipping)s::text, 1,
        o.shipping_minor, 0
    FROM issued AS i JOIN app.orders AS o ON o.id = i.order_id WHERE o.shipping_minor > 0
), paper AS (
    INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
    SELECT id, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint FROM issued
)
SELECT id FROM issued;

-- name: credit_note_issue
-- The next credit note of a series, which takes back the whole of an invoice; as invoice_issue. Returns its id.
WITH taken AS MATERIALIZED (
    SELECT app.next_invoice_number(%(series)s::text) AS number
), issued AS (
    INSERT INTO app.invoices (series, number, kind, order_id, credits_id, currency, net_minor, tax_minor, language,
        buyer_name, buyer_email, buyer_country, issued_at)
    SELECT %(series)s::text, t.number, 'credit_note', i.order_id, i.id, i.currency, i.net_minor, i.tax_minor, i.language,
        i.buyer_name, i.buyer_email, i.buyer_country, clock_timestamp()
    FROM taken AS t CROSS JOIN app.invoices AS i WHERE i.id = %(credits_id)s::bigint
    RETURNING id, credits_id
), lines AS (
    INSERT INTO app.invoice_lines (invoice_id, number, description, quantity, unit_price_minor, tax_rate)
    SELECT c.id, l.number, l.description, l.quantity, l.unit_price_minor, l.tax_rate
    FROM issued AS c JOIN app.invoice_lines AS l ON l.invoice_id = c.credits_id
), paper AS (
    INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
    SELECT id, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint FROM issued
)
SELECT id FROM issued;

-- name: document_ensure
-- What the paper of an invoice says besides, for one that was issued elsewhere; changes nothing where it is known.
INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
VALUES (%(invoice_id)s::bigint, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint)
ON CONFLICT (invoice_id) DO NOTHING;

-- name: document_get
-- All that the paper of an invoice or credit note says, but its lines.
SELECT i.id, i.kind = 'credit_note' AS is_credit_note, i.series, i.number, i.currency, i.net_minor, i.tax_minor,
    i.total_minor, i.language, i.buyer_name, i.buyer_email, i.buyer_country, i.issued_at, o.id AS order_id,
    o.number AS order_number, o.paid_at, o.refunded_at, u.zone AS buyer_zone, c.series AS credits_series,
    c.number AS credits_number, c.issued_at AS credits_issued_at, p.seller, p.page_size, p.zone, p.layout, p.pdf_sha256
FROM app.invoices AS i
JOIN app.invoice_documents AS p ON p.invoice_id = i.id
JOIN app.orders AS o ON o.id = i.order_id
JOIN app.users AS u ON u.id = o.user_id
LEFT JOIN app.invoices AS c ON c.id = i.credits_id
WHERE i.id = %(invoice_id)s::bigint;

-- name: document_lines
-- The lines of an invoice, in order; each has its tax, rounded.
SELECT l.description, l.quantity, l.unit_price_minor, l.tax_rate, l.net_minor, l.tax_minor
FROM app.invoice_lines AS l WHERE l.invoice_id = %(invoice_id)s::bigint ORDER BY l.number;

-- name: document_set_checksum
-- Notes the checksum of the file that was first made; a row for who was first.
UPDATE app.invoice_documents AS p SET pdf_sha256 = %(sha256)s::bytea, generated_at = clock_timestamp()
WHERE p.invoice_id = %(invoice_id)s::bigint AND p.pdf_sha256 IS NULL
RETURNING p.invoice_id;

-- name: order_needs_documents
-- Whether an order was paid or refunded within the last minute and has no paper of it yet.
SELECT EXISTS (
    SELECT FROM app.orders AS o WHERE o.paid_at > clock_timestamp() - interval '1 minute'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'invoice')
) OR EXISTS (
    SELECT FROM app.orders AS o WHERE o.refunded_at > clock_timestamp() - interval '1 minute'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'credit_note')
) AS is_new;

-- name: receipt_find
-- The message that is the order's receipt, if the payment was recorded with one, and whether the payment is not older than
-- `max_age_hours`.
SELECT (SELECT i.message_id FROM backline.idempotency AS i
        WHERE i.type = 'payment_receipt' AND i.key = 'payment_receipt/' || %(order_id)s::bigint) AS id,
    %(paid_at)s::timestamptz > clock_timestamp() - %(max_age_hours)s::float8 * interval '1 hour' AS is_recent;

-- name: orders_due
-- Orders of the last days that lack an invoice, a credit note or a file, the earliest first.
SELECT order_id FROM (
    SELECT o.id AS order_id, o.paid_at AS at FROM app.orders AS o
    WHERE o.paid_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'invoice')
    UNION
    SELECT o.id, o.refunded_at FROM app.orders AS o
    WHERE o.refunded_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'credit_note')
    UNION
    SELECT i.order_id, i.issued_at FROM app.invoice_documents AS p JOIN app.invoices AS i ON i.id = p.invoice_id
    WHERE p.pdf_sha256 IS NULL AND i.issued_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
) AS due
GROUP BY order_id ORDER BY min(at), order_id LIMIT %(batch_limit)s::integer;
