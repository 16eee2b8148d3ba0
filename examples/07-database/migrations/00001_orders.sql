-- +goose Up
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	item text NOT NULL,
	placed timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE orders;
