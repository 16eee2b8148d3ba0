CREATE TABLE flag (
	key     TEXT COLLATE "C" PRIMARY KEY,
	version BIGINT NOT NULL,
	state   TEXT NOT NULL,
	leaf    BIGINT NOT NULL,
	at      BIGINT NOT NULL,
	asked   BIGINT NOT NULL,
	writer  TEXT NOT NULL,
	act     TEXT NOT NULL
);

CREATE INDEX flag_leaf ON flag (leaf);

CREATE TABLE flag_change (
	key  TEXT COLLATE "C" NOT NULL,
	leaf BIGINT NOT NULL,
	PRIMARY KEY (key, leaf)
);
