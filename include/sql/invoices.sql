-- Invoices, credit notes and their PDF documents.

-- name: order_lock
-- The order, and whether it is paid and refunded; locked, so that concurrent runs issue one invoice.
SELECT o.paid_at IS NOT NULL AS is_paid, o.state = 'refunded' AS is_refunded, o.ship_to_country AS country, u.language
FROM app.orders AS o JOIN app.users AS u ON u.id = o.user_id
WHERE o.id = %(order_id)s::bigint
FOR NO KEY UPDATE OF o;

-- name: documents_of_order
-- Ids of the order's invoice and credit note, as far as they exist.
SELECT i.id, i.kind = 'credit_note' AS is_credit_note FROM app.invoices AS i
WHERE i.order_id = %(order_id)s::bigint ORDER BY i.id;

-- name: invoice_issue
-- Inserts the next invoice of a series, with the order's lines and shipping; returns its id. The series is locked until the
-- commit and the time is read under that lock: numbers follow time, and a rollback releases its number.
WITH next_number AS MATERIALIZED (
    SELECT app.next_invoice_number(%(series)s::text) AS number
), issued AS (
    INSERT INTO app.invoices (series, number, order_id, currency, net_minor, tax_minor, language, buyer_name,
        buyer_email, buyer_country, issued_at)
    SELECT %(series)s::text, n.number, o.id, o.currency, o.net_minor + o.shipping_minor, o.tax_minor, u.language, u.name,
        u.email, o.ship_to_country, clock_timestamp()
    FROM next_number AS n CROSS JOIN app.orders AS o JOIN app.users AS u ON u.id = o.user_id
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
), document AS (
    INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
    SELECT id, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint FROM issued
)
SELECT id FROM issued;

-- name: credit_note_issue
-- Inserts the next credit note of a series, which cancels a whole invoice; returns its id. Locks like invoice_issue.
WITH next_number AS MATERIALIZED (
    SELECT app.next_invoice_number(%(series)s::text) AS number
), issued AS (
    INSERT INTO app.invoices (series, number, kind, order_id, credits_id, currency, net_minor, tax_minor, language,
        buyer_name, buyer_email, buyer_country, issued_at)
    SELECT %(series)s::text, n.number, 'credit_note', i.order_id, i.id, i.currency, i.net_minor, i.tax_minor, i.language,
        i.buyer_name, i.buyer_email, i.buyer_country, clock_timestamp()
    FROM next_number AS n CROSS JOIN app.invoices AS i WHERE i.id = %(credits_id)s::bigint
    RETURNING id, credits_id
), lines AS (
    INSERT INTO app.invoice_lines (invoice_id, number, description, quantity, unit_price_minor, tax_rate)
    SELECT c.id, l.number, l.description, l.quantity, l.unit_price_minor, l.tax_rate
    FROM issued AS c JOIN app.invoice_lines AS l ON l.invoice_id = c.credits_id
), document AS (
    INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
    SELECT id, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint FROM issued
)
SELECT id FROM issued;

-- name: document_ensure
-- Adds the document of an invoice that was issued elsewhere; an existing document is not changed.
INSERT INTO app.invoice_documents (invoice_id, seller, page_size, zone, layout)
VALUES (%(invoice_id)s::bigint, %(seller)s::jsonb, %(page_size)s::text, %(zone)s::text, %(layout)s::smallint)
ON CONFLICT (invoice_id) DO NOTHING;

-- name: document_get
-- Everything that the PDF of an invoice or credit note shows, except its lines.
SELECT i.id, i.kind = 'credit_note' AS is_credit_note, i.series, i.number, i.currency, i.net_minor, i.tax_minor,
    i.total_minor, i.language, i.buyer_name, i.buyer_email, i.buyer_country, i.issued_at, o.id AS order_id,
    o.number AS order_number, o.paid_at, o.refunded_at, u.zone AS buyer_zone, c.series AS credits_series,
    c.number AS credits_number, c.issued_at AS credits_issued_at, d.seller, d.page_size, d.zone, d.layout, d.pdf_sha256
FROM app.invoices AS i
JOIN app.invoice_documents AS d ON d.invoice_id = i.id
JOIN app.orders AS o ON o.id = i.order_id
JOIN app.users AS u ON u.id = o.user_id
LEFT JOIN app.invoices AS c ON c.id = i.credits_id
WHERE i.id = %(invoice_id)s::bigint;

-- name: document_lines
-- The lines of an invoice in order, each with its rounded tax.
SELECT l.description, l.quantity, l.unit_price_minor, l.tax_rate, l.net_minor, l.tax_minor
FROM app.invoice_lines AS l WHERE l.invoice_id = %(invoice_id)s::bigint ORDER BY l.number;

-- name: document_set_checksum
-- Stores the checksum of the first generated file; returns a row only to the first caller.
UPDATE app.invoice_documents AS d SET pdf_sha256 = %(sha256)s::bytea, generated_at = clock_timestamp()
WHERE d.invoice_id = %(invoice_id)s::bigint AND d.pdf_sha256 IS NULL
RETURNING d.invoice_id;

-- name: order_needs_documents
-- Whether an order that was paid or refunded within the last minute lacks its invoice or credit note.
SELECT EXISTS (
    SELECT FROM app.orders AS o WHERE o.paid_at > clock_timestamp() - interval '1 minute'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'invoice')
) OR EXISTS (
    SELECT FROM app.orders AS o WHERE o.refunded_at > clock_timestamp() - interval '1 minute'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'credit_note')
) AS is_new;

-- name: receipt_find
-- The message with the order's receipt, if one was enqueued with the payment.
SELECT i.ids[1] AS id FROM backline.idempotency AS i
WHERE i.caller = backline.calling_role() AND i.scope = '' AND i.key = 'order:' || %(order_id)s::bigint || ':receipt';

-- name: orders_due
-- A page of the recent orders that lack an invoice, a credit note or a PDF file, by id.
SELECT id FROM (
    SELECT o.id FROM app.orders AS o
    WHERE o.paid_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'invoice')
    UNION
    SELECT o.id FROM app.orders AS o
    WHERE o.refunded_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
      AND NOT EXISTS (SELECT FROM app.invoices AS i WHERE i.order_id = o.id AND i.kind = 'credit_note')
    UNION
    SELECT i.order_id FROM app.invoice_documents AS d JOIN app.invoices AS i ON i.id = d.invoice_id
    WHERE d.pdf_sha256 IS NULL AND i.issued_at > clock_timestamp() - %(lookback_days)s::float8 * interval '1 day'
) AS due
WHERE id > %(after_id)s::bigint ORDER BY id LIMIT %(batch_limit)s::integer;
