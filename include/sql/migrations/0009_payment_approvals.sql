-- Who was asked whether a large payment may be tried again, and what they said: once a try.

CREATE TABLE backline.payment_approval (
    payment_id  bigint NOT NULL,                                    -- of the app's payments
    number      smallint NOT NULL CHECK (number > 0),               -- the try that is asked about
    asked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,                               -- nobody answered by then: it is asked again
    approved    boolean,
    answered_by text,
    answered_at timestamptz,
    PRIMARY KEY (payment_id, number),
    CONSTRAINT payment_approval_answer CHECK (num_nulls(approved, answered_by, answered_at) IN (0, 3)),
    CONSTRAINT payment_approval_times CHECK (expires_at > asked_at AND answered_at >= asked_at)
);
COMMENT ON TABLE backline.payment_approval IS 'Tries of large payments that a person has to allow.';
