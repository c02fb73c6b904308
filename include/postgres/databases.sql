-- The roles and databases of docker-compose.airflow.yml. PostgreSQL's image runs this once, on an empty volume.
-- The passwords come from the container's environment: they are on no command line.
\set ON_ERROR_STOP on
\getenv airflow_password AIRFLOW_DB_PASSWORD
\getenv backline_password BACKLINE_DB_PASSWORD
-- A password in a server log or in the statistics of statements would be a leak.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET pg_stat_statements.track_utility = off;

CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE ROLE backline LOGIN PASSWORD :'backline_password';
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE backline OWNER backline;
REVOKE CONNECT ON DATABASE airflow, backline FROM PUBLIC;

\connect airflow
CREATE EXTENSION pg_stat_statements;
\connect backline
CREATE EXTENSION pg_stat_statements;
