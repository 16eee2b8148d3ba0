CREATE TABLE head (
	id         BIGINT PRIMARY KEY CHECK (id = 1),
	size       BIGINT NOT NULL,
	root       BYTEA NOT NULL,
	version    BIGINT NOT NULL,
	generation BIGINT NOT NULL
);

CREATE TABLE node (
	id          TEXT COLLATE "C" PRIMARY KEY,
	host        TEXT NOT NULL,
	pid         BIGINT NOT NULL,
	start       BIGINT NOT NULL,
	version     TEXT NOT NULL,
	boot        TEXT NOT NULL,
	lease_until BIGINT NOT NULL,
	dead        BIGINT NOT NULL,
	since       BIGINT NOT NULL
);

CREATE TABLE deployment (
	id          TEXT COLLATE "C" PRIMARY KEY,
	born        BIGINT NOT NULL,
	release     TEXT NOT NULL,
	number      BIGINT NOT NULL,
	version     TEXT NOT NULL,
	environment TEXT NOT NULL,
	plan        TEXT NOT NULL,
	reverts     TEXT NOT NULL,
	reverted_by TEXT NOT NULL,
	author      TEXT NOT NULL,
	state       TEXT NOT NULL,
	owner       TEXT,
	owned_since BIGINT NOT NULL,
	epoch       BIGINT NOT NULL,
	n           BIGINT NOT NULL,
	waiting     BIGINT NOT NULL,
	wake_at     BIGINT NOT NULL,
	wake_boot   TEXT NOT NULL,
	created_at  BIGINT NOT NULL,
	updated_at  BIGINT NOT NULL,
	UNIQUE (release, number)
);

CREATE INDEX deployment_born ON deployment (born);

CREATE INDEX deployment_open ON deployment (wake_at)
	WHERE state IN ('planned', 'approved', 'running', 'holding', 'committed', 'rolling_back');

CREATE TABLE entry (
	leaf          BIGINT PRIMARY KEY,
	deployment_id TEXT,
	n             BIGINT,
	kind          TEXT NOT NULL,
	step          TEXT NOT NULL,
	actor_name    TEXT NOT NULL,
	actor_uid     BIGINT NOT NULL,
	at            BIGINT NOT NULL,
	salt          BYTEA NOT NULL,
	record        BYTEA NOT NULL,
	UNIQUE (deployment_id, n)
);

CREATE TABLE tree (
	id   BIGINT PRIMARY KEY,
	hash BYTEA NOT NULL
);

CREATE TABLE checkpoint (
	size BIGINT PRIMARY KEY,
	note BYTEA NOT NULL,
	at   BIGINT NOT NULL
);

CREATE TABLE blob (
	digest     TEXT COLLATE "C" PRIMARY KEY,
	ref        TEXT NOT NULL,
	size       BIGINT NOT NULL,
	touched_at BIGINT NOT NULL
);

CREATE TABLE chunk (
	ref  TEXT NOT NULL,
	n    BIGINT NOT NULL,
	body BYTEA NOT NULL,
	PRIMARY KEY (ref, n)
);

CREATE TABLE blob_ref (
	holder TEXT NOT NULL,
	digest TEXT NOT NULL,
	PRIMARY KEY (holder, digest)
);

CREATE INDEX blob_ref_digest ON blob_ref (digest);

CREATE TABLE plan (
	digest TEXT COLLATE "C" PRIMARY KEY,
	body   BYTEA NOT NULL,
	at     BIGINT NOT NULL
);

CREATE TABLE lock (
	key           TEXT COLLATE "C" PRIMARY KEY,
	deployment_id TEXT NOT NULL,
	since         BIGINT NOT NULL
);

CREATE INDEX lock_deployment ON lock (deployment_id);

CREATE TABLE deployment_key (
	key           TEXT COLLATE "C" NOT NULL,
	deployment_id TEXT NOT NULL,
	PRIMARY KEY (key, deployment_id)
);

CREATE TABLE signal (
	deployment_id TEXT NOT NULL,
	id            TEXT NOT NULL,
	arrived       BIGINT NOT NULL,
	body          TEXT NOT NULL,
	consumed_n    BIGINT NOT NULL,
	PRIMARY KEY (deployment_id, id)
);

CREATE TABLE resource (
	key           TEXT COLLATE "C" PRIMARY KEY,
	deployment_id TEXT NOT NULL,
	step          TEXT NOT NULL,
	state         TEXT NOT NULL,
	proven        BIGINT NOT NULL,
	at            BIGINT NOT NULL
);

CREATE INDEX resource_deployment ON resource (deployment_id);

CREATE TABLE timing (
	release TEXT NOT NULL,
	step    TEXT NOT NULL,
	undo    BIGINT NOT NULL,
	leaf    BIGINT NOT NULL,
	took    BIGINT NOT NULL,
	PRIMARY KEY (release, undo, step, leaf)
);
