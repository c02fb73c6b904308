-- Progress and results of jobs, kept for a while after the run.

CREATE TABLE backline.job_result (
    dag_id     text NOT NULL,
    run_id     text NOT NULL,
    percent    real CHECK (percent BETWEEN 0 AND 100),
    doing      text,                      -- what the run does now
    result     jsonb,                     -- null until there is one; contains no secret
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (dag_id, run_id)
);
CREATE INDEX job_result_expiry ON backline.job_result (expires_at);
