-- Who was asked whether a large payment may be tried again, and what they said: once a try.

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
