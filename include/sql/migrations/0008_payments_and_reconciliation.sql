-- Approvals of payment attempts, and reconciliations with payment providers.

CREATE TABLE backline.payment_approval (
    payment_id     bigint NOT NULL,                           -- of the app's payments
    attempt_number smallint NOT NULL CHECK (attempt_number > 0),
    requested_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,                      -- without a decision by then it is requested again
    approved       boolean,
    decided_by     text,
    decided_at     timestamptz,
    PRIMARY KEY (payment_id, attempt_number),
    CONSTRAINT payment_approval_decision CHECK (num_nulls(approved, decided_by, decided_at) IN (0, 3)),
    CONSTRAINT payment_approval_times CHECK (expires_at > requested_at AND decided_at >= requested_at)
);
COMMENT ON TABLE backline.payment_approval IS 'Attempts of large payments that a person must approve.';

CREATE TABLE backline.reconciliation (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider       text NOT NULL,
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL CHECK (until > since),  -- the next window overlaps it
    provider_count bigint NOT NULL,                           -- payments in the provider's statement
    local_count    bigint NOT NULL,
    discrepancies  jsonb NOT NULL,                            -- their number by kind
    fixed          integer NOT NULL,
    remaining      integer NOT NULL,
    report         text NOT NULL,
    finished_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX reconciliation_covered ON backline.reconciliation (provider, until);

-- Discrepancies that were found and not fixed, each once: operators are alerted of new ones.
CREATE TABLE backline.reconciliation_discrepancy (
    provider      text NOT NULL,
    kind          text NOT NULL,
    reference     text NOT NULL,                              -- the provider's id of the payment
    summary       text NOT NULL,                              -- both sides' values
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, reference, kind, summary)
);
