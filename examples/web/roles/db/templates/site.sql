-- What the web servers read. It can run any number of times.
DO $$ BEGIN CREATE ROLE web; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
ALTER ROLE web LOGIN PASSWORD '{{ secret("db-password") | replace("'", "''") }}';
CREATE TABLE IF NOT EXISTS messages (id integer PRIMARY KEY, message text NOT NULL);
INSERT INTO messages VALUES (1, '{{ message | replace("'", "''") }}') ON CONFLICT (id) DO UPDATE SET message = EXCLUDED.message;
GRANT SELECT ON messages TO web;
