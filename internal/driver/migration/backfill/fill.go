package backfill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

// mostPasses is how often the table is gone through: rows that others wrote
// behind the batches are filled by the next pass. Where that does not end, it
// does not end by itself.
const mostPasses = 5

// run is one act on the table.
type run struct {
	*session.Session
	body  body
	call  backstay.Call
	own   database.Own
	fills fills
	side  side
}

// open opens the database of the plan, to look.
func open(ctx context.Context, call backstay.Call, b body) (*run, error) {
	deployment, step := call.Deployment, call.Step.ID
	if r := call.Step.Reverts; r != nil {
		deployment, step = r.Deployment, r.Step
	}
	s, err := session.Reach(ctx, call.Secrets, b.Address, short(deployment, step), b.Identity)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	return &run{
		Session: s, body: b, call: call, own: database.NewOwn(s.Dialect, deployment, step, call.Token),
		fills: newFills(s.Dialect, b, deployment, step), side: newSide(s.Dialect, b, deployment, step),
	}, nil
}

// begin opens it to change something. there is false where the table is not.
func begin(ctx context.Context, call backstay.Call) (r *run, there bool, err error) {
	b, err := decode(call.Step)
	if err != nil {
		return nil, false, err
	}
	if r, err = open(ctx, call, b); err != nil {
		return nil, false, err
	}
	err = r.Dialect.Limit(ctx, r.Conn, database.Limits{Lock: b.Lock.Std(), Statement: b.Statement.Std()})
	if err == nil {
		err = r.own.Ensure(ctx, r.Conn)
	}
	if err == nil {
		err = r.fills.ensure(ctx, r.Conn)
	}
	var tables database.Tables
	if err == nil {
		tables, err = r.Dialect.Tables(ctx, r.Conn)
	}
	if err != nil {
		return nil, false, errors.Join(err, r.Close())
	}
	t, there := tables[b.Table]
	if there && len(t.Key) == 0 {
		return nil, true, errors.Join(fmt.Errorf("%s has no primary key to find its rows by", bare(b.Table)), r.Close())
	}
	r.side.keys = t.Key
	return r, there, nil
}

// Do fills the rows that the condition picks, until none is left.
func (*Kind) Do(ctx context.Context, call backstay.Call) (_ backstay.Result, err error) {
	if ctx.Err() != nil {
		return backstay.Result{}, context.Cause(ctx)
	}
	r, there, err := begin(ctx, call)
	if err != nil {
		return backstay.Result{}, ended(ctx, err)
	}
	defer func() { err = ended(ctx, errors.Join(err, r.Close())) }()
	if !there {
		return backstay.Result{}, &backstay.Error{Class: backstay.NotFound, Op: "fill", Subject: bare(r.body.Table), Err: errors.New("there is no such table")}
	}
	if nothing, err := r.nothingToDo(ctx); err != nil || nothing {
		return backstay.Result{Note: "nothing to fill"}, err
	}
	if err := r.prepare(ctx); err != nil {
		return backstay.Result{}, err
	}
	p, err := r.resume(ctx)
	if err != nil {
		return backstay.Result{}, err
	}
	for {
		if err := r.pass(ctx, p); err != nil {
			return backstay.Result{Note: p.note()}, err
		}
		left, err := r.count(ctx, r.Conn, r.side.left())
		if err != nil {
			return backstay.Result{Note: p.note()}, err
		}
		if left == 0 {
			return backstay.Result{Note: p.note()}, r.transaction(ctx, func(tx *sql.Tx) error { return r.fills.end(ctx, tx, p.rows) })
		}
		if p.pass++; p.pass > mostPasses {
			return backstay.Result{Note: p.note()}, &backstay.Error{
				Class: backstay.Permanent, Op: "fill", Subject: bare(r.body.Table), Err: fmt.Errorf("%d rows are left after %d passes: somebody goes on writing such rows", left, mostPasses),
				Hint: "release what fills the columns itself before the backfill, then this step",
			}
		}
		p.fresh = true
	}
}

// Undo goes through the batches backwards and puts the old values back.
func (*Kind) Undo(ctx context.Context, call backstay.Call) (_ backstay.Result, err error) {
	if ctx.Err() != nil {
		return backstay.Result{}, context.Cause(ctx)
	}
	r, there, err := begin(ctx, call)
	if err != nil {
		return backstay.Result{}, ended(ctx, err)
	}
	defer func() { err = ended(ctx, errors.Join(err, r.Close())) }()
	if err := r.transaction(ctx, func(*sql.Tx) error { return nil }); err != nil {
		return backstay.Result{}, err // whoever was cut off has ended now
	}
	mine, err := r.fills.mine(ctx, r.Conn)
	if err != nil || mine == nil {
		return backstay.Result{Note: "nothing was filled"}, err
	}
	note := "the table is gone, and what was filled with it"
	if there {
		if note, err = r.takeBack(ctx); err != nil {
			return backstay.Result{Note: note}, err
		}
	}
	if _, err := r.Conn.ExecContext(ctx, "DROP TABLE IF EXISTS "+r.side.name); err != nil {
		return backstay.Result{Note: note}, r.fills.fail("drop the notes", err)
	}
	return backstay.Result{Note: note}, r.transaction(ctx, func(tx *sql.Tx) error { return r.fills.forget(ctx, tx) })
}

// ended names why a context ended, where it did.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// nothingToDo says that an earlier deployment filled the columns, and no row is
// left.
func (r *run) nothingToDo(ctx context.Context) (bool, error) {
	latest, err := r.fills.latest(ctx, r.Conn)
	if err != nil || latest == nil || latest.state != database.Ended {
		return false, err
	}
	rows, err := r.count(ctx, r.Conn, "SELECT count(*) FROM "+r.body.Table+" WHERE "+r.side.condition())
	return rows == 0, err
}

// prepare notes that this step fills, and makes the side table.
func (r *run) prepare(ctx context.Context) error {
	if err := r.transaction(ctx, func(tx *sql.Tx) error { return r.fills.begin(ctx, tx) }); err != nil {
		return err
	}
	for _, statement := range r.side.create() {
		if _, err := r.Conn.ExecContext(ctx, statement); err != nil {
			return r.fills.fail("make the notes of "+bare(r.body.Table), err)
		}
	}
	return nil
}

// progress is how far a fill is.
type progress struct {
	pass, batch int64
	fresh       bool // the pass has no batch yet
	rows, left  int64
	begun, told time.Time
	here        int64 // rows since begun
}

func (p *progress) note() string { return fmt.Sprintf("%d rows filled in %d batches", p.rows, p.batch) }

// resume reads from the side table how far an earlier attempt came.
func (r *run) resume(ctx context.Context) (*progress, error) {
	p := &progress{begun: time.Now(), told: time.Now()}
	var pass, batch sql.NullInt64
	err := r.Conn.QueryRowContext(ctx, "SELECT MAX(pass), MAX(batch), count(*) FROM "+r.side.name).Scan(&pass, &batch, &p.rows)
	if err != nil {
		return nil, r.fills.fail("read the notes", err)
	}
	p.pass, p.batch, p.fresh = max(pass.Int64, 1), batch.Int64, !pass.Valid
	if p.left, err = r.count(ctx, r.Conn, r.side.left()); err != nil {
		return nil, err
	}
	if p.rows > 0 {
		r.say("going on behind %d rows that were filled before", p.rows)
	}
	return p, nil
}

// pass goes through the table once, from where it stands.
func (r *run) pass(ctx context.Context, p *progress) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		begun := time.Now()
		n, err := r.patiently(ctx, func() (int64, error) { return r.batch(ctx, p) })
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		p.batch++
		p.fresh = false
		p.rows, p.here = p.rows+n, p.here+n
		r.analyse(ctx, p.batch)
		r.tell(p)
		rest := r.body.Pause.Std()
		if r.body.Rate > 0 {
			rest = max(rest, time.Duration(float64(n)/float64(r.body.Rate)*float64(time.Second))-time.Since(begun))
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
}

// batch fills the next rows in one transaction.
func (r *run) batch(ctx context.Context, p *progress) (n int64, err error) {
	err = r.transaction(ctx, func(tx *sql.Tx) error {
		if err := r.order(ctx, tx); err != nil {
			return err
		}
		if n, err = r.exec(ctx, tx, r.side.pick(p.pass, p.batch+1, p.fresh)); err != nil || n == 0 {
			return err
		}
		if _, err := r.exec(ctx, tx, r.side.write(p.batch+1)); err != nil {
			return err
		}
		again, err := r.count(ctx, tx, r.side.picked(p.batch+1))
		if err == nil && again > 0 {
			err = &backstay.Error{
				Class: backstay.Permanent, Op: "fill", Subject: bare(r.body.Table), Err: fmt.Errorf("`where` still picks %d of %d rows after `set`", again, n),
				Hint: "narrow `where` to rows for which `set` gives a value",
			}
		}
		return err
	})
	return n, err
}

// order lets the transaction of a batch go along the key.
func (r *run) order(ctx context.Context, tx *sql.Tx) error {
	if r.side.ordered == "" {
		return nil
	}
	_, err := r.exec(ctx, tx, r.side.ordered)
	return err
}

// takeBack undoes the batches, newest first.
func (r *run) takeBack(ctx context.Context) (note string, err error) {
	if _, err := r.Conn.ExecContext(ctx, r.side.empty()); err != nil {
		if r.Dialect.Missing(err) {
			return "nothing was filled", nil // it was cut off before there were notes
		}
		return "", r.fills.fail("read the notes", err)
	}
	var rows, theirs int64
	for {
		if ctx.Err() != nil {
			return taken(rows, theirs), context.Cause(ctx)
		}
		var one backed
		if _, err := r.patiently(ctx, func() (n int64, err error) { one, err = r.backBatch(ctx); return one.noted, err }); err != nil {
			return taken(rows, theirs), err
		}
		if one.noted == 0 {
			return taken(rows, theirs), nil
		}
		rows, theirs = rows+one.rows, theirs+one.theirs
	}
}

// backed is a batch that was taken back: how many rows of it were noted, how many
// have their old values again, and how many others wrote since.
type backed struct{ noted, rows, theirs int64 }

func taken(rows, theirs int64) string {
	note := fmt.Sprintf("%d rows have their old values again", rows)
	if theirs > 0 {
		note += fmt.Sprintf("; %d were written since and stay", theirs)
	}
	return note
}

// backBatch takes the newest batch back and forgets it, in one transaction.
func (r *run) backBatch(ctx context.Context) (one backed, err error) {
	err = r.transaction(ctx, func(tx *sql.Tx) error {
		var batch sql.NullInt64
		if err := tx.QueryRowContext(ctx, "SELECT MAX(batch) FROM "+r.side.name).Scan(&batch); err != nil {
			return r.fills.fail("read the notes", err)
		}
		if !batch.Valid {
			return nil
		}
		if err := r.order(ctx, tx); err != nil {
			return err
		}
		if one.theirs, err = r.count(ctx, tx, r.side.theirs(batch.Int64)); err != nil {
			return err
		}
		if one.rows, err = r.exec(ctx, tx, r.side.back(batch.Int64)); err != nil {
			return err
		}
		one.noted, err = r.exec(ctx, tx, fmt.Sprintf("DELETE FROM %s WHERE batch = %d", r.side.name, batch.Int64))
		return err
	})
	return one, err
}

// transaction runs an act behind the fence: whoever was cut off and holds it has
// ended once it is passed, and nobody older passes it any more.
func (r *run) transaction(ctx context.Context, act func(*sql.Tx) error) error {
	var options *sql.TxOptions
	if r.side.locked != "" {
		// What is read is what was committed when it is read, not when the transaction began.
		options = &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	}
	tx, err := r.Conn.BeginTx(ctx, options)
	if err != nil {
		return r.fills.fail("begin", err)
	}
	if err = r.own.Fence(ctx, tx); err == nil {
		err = act(tx)
	}
	if err != nil {
		_ = tx.Rollback() // the error says why
		return err        //nolint:wrapcheck // from functions that say what they did
	}
	return r.fills.fail("commit", tx.Commit())
}

// patiently repeats a batch that met somebody's lock.
func (r *run) patiently(ctx context.Context, act func() (int64, error)) (int64, error) {
	const most, rest = 5, 200 * time.Millisecond
	for i := 0; ; i++ {
		n, err := act()
		if err == nil || i == most || ctx.Err() != nil || backstay.ClassOf(err) != backstay.Transient {
			return n, err
		}
		r.say("again: %v", err)
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
}

func (r *run) exec(ctx context.Context, q database.Querier, statement string) (int64, error) {
	res, err := q.ExecContext(ctx, statement)
	if err != nil {
		return 0, r.fills.fail("fill "+bare(r.body.Table), err)
	}
	n, err := res.RowsAffected()
	return n, r.fills.fail("fill "+bare(r.body.Table), err)
}

func (r *run) count(ctx context.Context, q database.Querier, query string) (n int64, err error) {
	err = q.QueryRowContext(ctx, query).Scan(&n)
	return n, r.fills.fail("count the rows of "+bare(r.body.Table), err)
}

// analyse lets the database learn how the side table grows: without that it may
// read all of it for each batch. What becomes of it is not the step's success.
func (r *run) analyse(ctx context.Context, batch int64) {
	if batch&(batch-1) == 0 && batch > 1 && r.Dialect.Name() == "postgres" {
		_, _ = r.Conn.ExecContext(ctx, "ANALYZE "+r.side.name)
	}
}

// tell says now and then how far it is.
func (r *run) tell(p *progress) {
	const every = 2 * time.Second
	if time.Since(p.told) < every {
		return
	}
	p.told = time.Now()
	rate := float64(p.here) / time.Since(p.begun).Seconds()
	text := fmt.Sprintf("%d rows filled, %.0f a second", p.rows, rate)
	if left := p.left - p.here; left > 0 && rate > 0 {
		text += fmt.Sprintf(", about %d left for %s", left, time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	r.say("%s", text)
}

// say writes a line of output. What becomes of it is not the step's success.
func (r *run) say(format string, args ...any) {
	if r.call.Output != nil {
		_, _ = fmt.Fprintf(r.call.Output, format+"\n", args...)
	}
}
