-- The audit trail: who did what, from the HTTP API, the page, the command line or a job.

CREATE TABLE backline.audit_trail (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL,     -- the user's name in Airflow; a job's name
    action     text NOT NULL,     -- "message.cancel"
    target     text NOT NULL,     -- "message/17"; of many sent at once "messages"
    before     jsonb,             -- what the act changed, as it was; never a payload's values, so never a secret
    after      jsonb,
    request_id text
);
COMMENT ON TABLE backline.audit_trail IS 'One row an act, written in the act''s own transaction; rows are never changed.';

CREATE INDEX audit_trail_target ON backline.audit_trail (target);
CREATE INDEX audit_trail_request ON backline.audit_trail (request_id);
