-- The audit trail: who did what, over the HTTP API, the web page, the command line or in a job.

CREATE TABLE backline.audit_trail (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL,     -- the user's name in Airflow, or a job's name
    action     text NOT NULL,     -- "message.cancel"
    target     text NOT NULL,     -- "message/17"; "messages" for a batch
    before     jsonb,             -- what was changed, before and after; never a payload's values, so never a secret
    after      jsonb,
    request_id text
);
COMMENT ON TABLE backline.audit_trail IS 'One row per action, inserted in the action''s transaction; rows are never changed.';

CREATE INDEX audit_trail_target ON backline.audit_trail (target);
CREATE INDEX audit_trail_request ON backline.audit_trail (request_id);
