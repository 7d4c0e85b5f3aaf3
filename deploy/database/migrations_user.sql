-- Exactly the rights `orders migrate` needs. Run once, as an administrator.
-- Create the user with its password first:
--     CREATE USER 'orders_migrations'@'%' IDENTIFIED BY '…' REQUIRE SSL;
GRANT CREATE, ALTER, INDEX ON order_db.* TO 'orders_migrations'@'%';
-- Alembic records the version it reached.
GRANT SELECT, INSERT, UPDATE, DELETE ON order_db.* TO 'orders_migrations'@'%';
