-- What the service itself needs, table by table, and nothing else. Run as an administrator after
-- the first `orders migrate`: rights on a table can be given once it is there.
-- The user is there already, with a password of its own:
--     CREATE USER 'orders_service'@'%' IDENTIFIED BY '…' REQUIRE SSL;
-- An order, once stored, is never changed or deleted.
GRANT SELECT, INSERT ON order_db.orders TO 'orders_service'@'%';
-- Events are leased, completed, and deleted after their retention time.
GRANT SELECT, INSERT, UPDATE, DELETE ON order_db.outbox TO 'orders_service'@'%';
-- Dead letters stay until an operator decides; the service notes which message is acknowledged, and
-- what came of one that was moved back.
GRANT SELECT, INSERT, UPDATE (acknowledged_at, attempts, redriven_at) ON order_db.dead_letters TO 'orders_service'@'%';
-- The schema's version is looked at before each start.
GRANT SELECT ON order_db.order_service_version TO 'orders_service'@'%';
