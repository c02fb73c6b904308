-- What jobs leave for those who started them: progress while they run, a result for a while after.

CREATE TABLE backline.job_result (
    dag_id     text NOT NULL,
    run_id     text NOT NULL,
    percent    real CHECK (percent BETWEEN 0 AND 100),
    doing      text,                      -- the progress in words
    result     jsonb,                     -- null until there is one; holds no secret
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (dag_id, run_id)
);
CREATE INDEX job_result_expiry ON backline.job_result (expires_at);
