-- What paying by a provider needs besides: whose the method is, and events that wait.

ALTER TABLE app.payments
    ADD COLUMN customer_reference text;                             -- the provider's id of whom the method belongs to

ALTER TABLE app.payment_events
    ADD COLUMN problem text CHECK (problem <> '');                  -- why it waits, or came to nothing
DROP INDEX app.payment_events_waiting;
CREATE INDEX payment_events_waiting ON app.payment_events (occurred_at, id) WHERE processed_at IS NULL;
