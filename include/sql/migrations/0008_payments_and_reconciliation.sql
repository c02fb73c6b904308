-- Approvals of payment attempts, and reconciliations with payment providers.

CREATE TABLE backline.payment_approval (
    payment_id  bigint NOT NULL,                                    -- of the app's payments
    attempt_number smallint NOT NULL CHECK (attempt_number > 0),               -- the try that is asked about
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,                               -- nobody answered by then: it is asked again
    approved    boolean,
    decided_by  text,
    decided_at  timestamptz,
    PRIMARY KEY (payment_id, attempt_number),
    CONSTRAINT payment_approval_decision CHECK (num_nulls(approved, decided_by, decided_at) IN (0, 3)),
    CONSTRAINT payment_approval_times CHECK (expires_at > requested_at AND decided_at >= requested_at)
);
COMMENT ON TABLE backline.payment_approval IS 'Tries of large payments that a person has to allow.';

CREATE TABLE backline.reconciliation (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider    text NOT NULL,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL CHECK (until > since),   -- the next one begins some overlap before it
    provider_count bigint NOT NULL,                              -- payments that the provider's list had
    local_count bigint NOT NULL,
    discrepancies jsonb NOT NULL,                               -- differences by kind
    fixed       integer NOT NULL,
    remaining   integer NOT NULL,
    report      text NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX reconciliation_covered ON backline.reconciliation (provider, until);

-- Differences that were found and not mended, each once: operators are told when a new one comes.
CREATE TABLE backline.reconciliation_discrepancy (
    provider      text NOT NULL,
    kind          text NOT NULL,
    reference     text NOT NULL,                              -- the provider's id of the payment
    summary       text NOT NULL,                              -- what each side says
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, reference, kind, summary)
);
