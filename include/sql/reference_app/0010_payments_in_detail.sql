-- What paying by a provider needs besides: whose the method is, events that wait, subscriptions that a provider charges.

ALTER TABLE app.payments
    ADD COLUMN customer_reference text;                             -- the provider's id of whom the method belongs to

ALTER TABLE app.payment_events
    ADD COLUMN problem text CHECK (problem <> '');                  -- why it waits, or came to nothing
DROP INDEX app.payment_events_waiting;
CREATE INDEX payment_events_waiting ON app.payment_events (occurred_at, id) WHERE processed_at IS NULL;

-- Charged by the provider by itself: it tells us, and that makes the order.
ALTER TABLE app.subscriptions
    ADD COLUMN provider app.payment_provider,
    ADD COLUMN provider_reference text,
    ADD CONSTRAINT subscriptions_provider CHECK (num_nulls(provider, provider_reference) IN (0, 2)),
    ADD CONSTRAINT subscriptions_provider_reference UNIQUE (provider, provider_reference);
