package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// target is one open session with a step's database.
type target struct {
	d        database.Dialect
	db       *sql.DB
	conn     *sql.Conn
	identity database.Identity
}

// connect resolves an address and opens a session that is nobody's: one that only
// looks, or plays on a scratch database.
func connect(ctx context.Context, secrets backstay.Secrets, address string) (*target, error) {
	s, err := session.Open(ctx, secrets, address, "")
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	return &target{d: s.Dialect, db: s.DB, conn: s.Conn, identity: s.Identity}, nil
}

func (t *target) close() error {
	return (&session.Session{DB: t.db, Conn: t.conn}).Close() //nolint:wrapcheck // says what it did
}

// reach opens a session with the database that the plan names, and refuses any other.
func (b body) reach(ctx context.Context, call backstay.Call, owner string) (*target, error) {
	s, err := session.Reach(ctx, call.Secrets, b.Address, owner, b.Identity)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	return &target{d: s.Dialect, db: s.DB, conn: s.Conn, identity: s.Identity}, nil
}

// versions is the tool's table in a session.
func (b body) versions(d database.Dialect) database.VersionTable {
	return database.NewVersionTable(d, files.Convention(b.Convention), b.Table)
}

func (b body) limits() database.Limits {
	return database.Limits{Lock: b.Lock.Std(), Statement: b.Statement.Std()}
}

// run is one act on a target: the lock is held, the timeouts are set.
type run struct {
	*target
	body   body
	call   backstay.Call
	own    database.Own
	tool   database.VersionTable
	unlock func()
}

// begin opens a run for an act that changes something.
func begin(ctx context.Context, call backstay.Call) (*run, error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, err
	}
	t, err := b.reach(ctx, call, call.Deployment)
	if err != nil {
		return nil, err
	}
	deployment, step := call.Deployment, call.Step.ID
	if r := call.Step.Reverts; r != nil {
		deployment, step = r.Deployment, r.Step
	}
	r := &run{target: t, body: b, call: call, own: database.NewOwn(t.d, deployment, step, call.Token), tool: b.versions(t.d)}
	r.unlock, err = t.d.Lock(ctx, t.conn, t.identity, call.Deployment, b.Lock.Std()+lockPatience)
	if err == nil {
		err = t.d.Limit(ctx, t.conn, b.limits())
	}
	if err == nil {
		err = r.own.Ensure(ctx, t.conn)
	}
	if err != nil {
		return nil, errors.Join(err, r.end())
	}
	return r, nil
}

// lockPatience is how much longer than for a row Backstay waits for the lock
// that another migration holds.
const lockPatience = 10 * time.Second

func (r *run) end() error {
	if r.unlock != nil {
		r.unlock()
	}
	return r.close()
}

// renew replaces a session that broke.
func (r *run) renew(ctx context.Context) error {
	if err := r.conn.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
		return fmt.Errorf("open the database again: %w", err)
	}
	conn, err := r.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open the database again: %w", r.d.Classify(err))
	}
	r.conn = conn
	id, err := r.d.Identity(ctx, conn)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	if !id.Same(r.body.Identity) {
		return backstay.Classify(backstay.Conflict, errors.New("open the database again: another database answers now"))
	}
	unlock, err := r.d.Lock(ctx, conn, id, r.call.Deployment, r.body.Lock.Std()+lockPatience)
	if err != nil {
		return err //nolint:wrapcheck // says what it did
	}
	r.unlock = unlock
	return r.d.Limit(ctx, conn, r.body.limits()) //nolint:wrapcheck // says what it did
}
