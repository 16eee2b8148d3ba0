-- +goose Up
ALTER TABLE orders ADD COLUMN gift text;
CREATE TABLE wrappings (
	name text PRIMARY KEY,
	price integer NOT NULL CHECK (price >= 0)
);
INSERT INTO wrappings VALUES ('paper', 1), ('box', 3);
CREATE INDEX orders_gift ON orders (gift) WHERE gift IS NOT NULL;

-- +goose Down
DROP INDEX orders_gift;
DROP TABLE wrappings;
ALTER TABLE orders DROP COLUMN gift;
