-- Subscriptions that a provider charges by itself: it tells us, and that makes the order.

ALTER TABLE app.subscriptions
    ADD COLUMN provider app.payment_provider,
    ADD COLUMN provider_reference text,
    ADD CONSTRAINT subscriptions_provider CHECK (num_nulls(provider, provider_reference) IN (0, 2)),
    ADD CONSTRAINT subscriptions_provider_reference UNIQUE (provider, provider_reference);
