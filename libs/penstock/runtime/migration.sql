-- lock_migrations: one instance of a service migrates at a time
SELECT pg_advisory_lock($1);

-- unlock_migrations: the others go on, and find nothing left to do
SELECT pg_advisory_unlock($1);

-- create_migrations: what this database has seen
CREATE TABLE IF NOT EXISTS schema_migration (
    number int PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- applied_migrations: the numbers of the files that need not be applied again
SELECT number FROM schema_migration;

-- record_migration: said in the transaction that applied the file
INSERT INTO schema_migration (number, name) VALUES ($1, $2);
