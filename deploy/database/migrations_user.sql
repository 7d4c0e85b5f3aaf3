-- What the user of `orders migrate` needs, and nothing else. Run as an administrator, once.
-- The user is there already, with a password of its own:
--     CREATE USER 'orders_migrations'@'%' IDENTIFIED BY '…' REQUIRE SSL;
GRANT CREATE, ALTER, INDEX ON order_db.* TO 'orders_migrations'@'%';
-- Alembic writes down the version it reached.
GRANT SELECT, INSERT, UPDATE, DELETE ON order_db.* TO 'orders_migrations'@'%';
