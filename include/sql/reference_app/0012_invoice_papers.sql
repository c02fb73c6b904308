-- What else an invoice's paper says, so that it can be made again as it was; and indexes for invoicing and reconciliation.

CREATE TABLE app.invoice_documents (
    invoice_id bigint PRIMARY KEY REFERENCES app.invoices ON DELETE CASCADE,
    seller     jsonb NOT NULL CHECK (jsonb_typeof(seller) = 'object'),  -- name, address, tax_id, email, as they were that day
    page_size  text NOT NULL CHECK (page_size IN ('A4', 'Letter')),
    zone       app.zone NOT NULL,                                   -- whose days it bears
    layout     smallint NOT NULL CHECK (layout > 0),                -- which template: an old paper keeps its look
    pdf_sha256 bytea CHECK (octet_length(pdf_sha256) = 32),         -- null until it was first made
    generated_at timestamptz,
    CONSTRAINT invoice_documents_generated CHECK ((pdf_sha256 IS NULL) = (generated_at IS NULL))
);
CREATE INDEX invoice_documents_pending ON app.invoice_documents (invoice_id) WHERE pdf_sha256 IS NULL;
COMMENT ON TABLE app.invoice_documents IS 'The parts of an invoice''s PDF that are no figures, and the checksum of the file that was first made.';

CREATE INDEX orders_paid ON app.orders (paid_at) WHERE paid_at IS NOT NULL;
CREATE INDEX orders_refunded ON app.orders (refunded_at) WHERE refunded_at IS NOT NULL;
CREATE INDEX payments_created ON app.payments (created_at);
