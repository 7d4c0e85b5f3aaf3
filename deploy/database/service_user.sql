-- Exactly the rights the service needs, table by table. Run as an administrator after each
-- `orders migrate`: rights can be granted only on existing tables.
-- Create the user with its password first:
--     CREATE USER 'orders_service'@'%' IDENTIFIED BY '…' REQUIRE SSL;
-- A stored order is never changed or deleted.
GRANT SELECT, INSERT ON order_db.orders TO 'orders_service'@'%';
-- Events are leased, completed, and deleted after their retention time.
GRANT SELECT, INSERT, UPDATE, DELETE ON order_db.outbox TO 'orders_service'@'%';
-- Dead letters stay until an operator decides. The service records acknowledgements, and the outcome
-- of dead letters that were moved back.
GRANT SELECT, INSERT, UPDATE (acknowledged_at, attempts, redriven_at) ON order_db.dead_letters TO 'orders_service'@'%';
-- The service checks the schema version at each start.
GRANT SELECT ON order_db.order_service_version TO 'orders_service'@'%';
