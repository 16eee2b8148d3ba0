package migration_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration/promote"
	"github.com/backstay-dev/backstay/internal/parts"
)

// cluster is a primary with a streaming standby, and a table that users write.
type cluster struct {
	primary, standby place
	admin            place // the standby's maintenance database
}

func startCluster(t *testing.T) cluster {
	t.Helper()
	pg := parts.StartPostgres(t)
	shop := place{driver: "pgx", dsn: pg.Database(t)}
	shop.exec(t, "CREATE TABLE orders (id bigint PRIMARY KEY)")
	copied := pg.Backup(t)
	conninfo := strings.ReplaceAll(pg.DSN(), "'", "")
	second := pg.Second(t, copied, "standby.signal", "primary_conninfo = '"+conninfo+"'")
	name := shop.dsn[strings.LastIndexByte(shop.dsn, '/'):]
	c := cluster{primary: shop, standby: place{driver: "pgx", dsn: second.DSN()[:strings.LastIndexByte(second.DSN(), '/')] + name}, admin: place{driver: "pgx", dsn: second.DSN()}}
	wait(t, "the standby streams", func() bool {
		return c.admin.texts(t, "SELECT coalesce((SELECT status FROM pg_stat_wal_receiver), 'none')")[0] == "streaming"
	})
	return c
}

func (c cluster) fixture(within string) drivertest.Fixture {
	config, err := json.Marshal(map[string]any{"promote": map[string]any{"primary": "secret:env/PRIMARY", "standby": "secret:env/STANDBY", "within": within}})
	if err != nil {
		panic(err)
	}
	url := func(p place) string { return strings.Replace(p.dsn, "backstay@", "backstay:"+canary+"@", 1) }
	return drivertest.Fixture{Kind: promote.New(), Request: backstay.Request{
		ID: "move", Release: "shop", Config: config, Blobs: drivertest.NewBlobs(),
		Secrets: secrets{"secret:env/PRIMARY": url(c.primary), "secret:env/STANDBY": url(c.standby)},
	}}
}

// users write to whichever server takes it, and count what was acknowledged.
func (c cluster) users(t *testing.T) (stop func() []string, acknowledged *atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	acknowledged = &atomic.Int64{}
	ended := make(chan struct{})
	var told []string
	servers := []*sql.DB{c.primary.open(t), c.standby.open(t)}
	go func() {
		defer close(ended)
		at := 0
		for id := 1; ctx.Err() == nil; {
			_, err := servers[at].ExecContext(ctx, "INSERT INTO orders (id) VALUES ("+strconv.Itoa(id)+")")
			if err == nil {
				acknowledged.Add(1)
				told = append(told, strconv.Itoa(id))
			} else {
				at = 1 - at // the connection setting of an application that knows both
			}
			id++ // one that was not acknowledged may be there too
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return func() []string {
		cancel()
		<-ended
		for _, s := range servers {
			_ = s.Close()
		}
		return told
	}, acknowledged
}

func wait(t *testing.T, what string, until func() bool) {
	t.Helper()
	for begun := time.Now(); !until(); {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("never: " + what)
		}
		select {
		case <-time.After(30 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(what)
		}
	}
}

// A standby that does not catch up is not promoted: the primary is open again, and
// its users go on. A process that is killed while it waits leaves what the next one
// opens. Then the standby catches up, and every acknowledged row moves with it.
func TestPromote(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	stop, acknowledged := c.users(t)
	defer stop()
	some := func() {
		from := acknowledged.Load()
		wait(t, "users write", func() bool { return acknowledged.Load() > from+20 })
	}
	some()
	tr := drivertest.NewTrial(t, c.fixture("1s"))
	if tr.Step.Class != backstay.Irreversible || tr.Step.HasUndo || strings.Contains(string(backstay.Canonical(tr.Step)), canary) {
		t.Errorf("the plan promises too much, or shows the password: %s", backstay.Canonical(tr.Step))
	}
	tr.Begin(t)

	c.admin.exec(t, "SELECT pg_wal_replay_pause()")
	if err := tr.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "did not replay the rest in time") {
		t.Fatalf("a standby that does not catch up: got %v", err)
	}
	if now := tr.Observe(t, false); !now.Equal(tr.Before) {
		t.Errorf("the cluster is not as before: %s", backstay.Canonical(now))
	}
	some()

	killedWaiting(t, c, tr)
	if found, err := promote.New().Probe(t.Context(), tr.Call()); err != nil || found != backstay.Partial {
		t.Errorf("after the kill: found %s, %v", found, err)
	}
	if err := promote.New().Reap(t.Context(), tr.Call()); err != nil {
		t.Fatal(err)
	}
	if now := tr.Observe(t, false); !now.Equal(tr.Before) {
		t.Errorf("after the kill and recovery the cluster is not as before: %s", backstay.Canonical(now))
	}
	some()

	c.admin.exec(t, "SELECT pg_wal_replay_resume()")
	move := drivertest.NewTrial(t, c.fixture("20s"))
	if err := move.Do(t.Context()); err != nil {
		t.Fatalf("Do: %v (hint: %s)", err, backstay.HintOf(err))
	}
	t.Log(move.Notes[0])
	some()
	told := stop()
	there := map[string]bool{}
	for _, id := range c.standby.texts(t, "SELECT id FROM orders") {
		there[id] = true
	}
	t.Logf("%d rows acknowledged, %d on the new primary", len(told), len(there))
	for _, id := range told {
		if !there[id] {
			t.Errorf("row %s was acknowledged and is not on the new primary", id)
		}
	}
	if _, err := c.primary.open(t).ExecContext(t.Context(), "INSERT INTO orders (id) VALUES (-1)"); err == nil || !strings.Contains(err.Error(), "not currently accepting") {
		t.Errorf("the old primary takes a write: %v", err)
	}
	// A process that was killed right after it promoted leaves closed databases.
	name := filepath.Base(strings.SplitN(c.standby.dsn, "?", 2)[0])
	c.admin.exec(t, "UPDATE backstay_promote SET state = 'promoting'", "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	if err := promote.New().Reap(t.Context(), move.Call()); err != nil {
		t.Fatal(err)
	}
	c.standby.exec(t, "INSERT INTO orders (id) VALUES (-2)")
	// Twice is once; and there is no way back.
	if err := move.Do(t.Context()); err != nil || move.Notes[1] != "it is promoted already" {
		t.Errorf("the second do: %v, %v", err, move.Notes)
	}
	if _, err := promote.New().Undo(t.Context(), move.Call()); err == nil {
		t.Error("a promotion was undone")
	}
	// The new primary is no standby any more.
	_, err := promote.New().Prepare(t.Context(), c.fixture("1s").Request)
	if got := drivertest.Explain(err); err == nil || !strings.Contains(got, "no standby") {
		t.Errorf("promoted again: got %v", got)
	}
}

// killedWaiting kills a process that waits for a standby, with the primary closed.
func killedWaiting(t *testing.T, c cluster, tr *drivertest.Trial) {
	t.Helper()
	call := tr.Call()
	call.Blobs, call.Secrets = nil, nil
	request := c.fixture("1m").Request
	step := call.Step
	step.Body = []byte(strings.Replace(string(step.Body), `"within":"1s"`, `"within":"1m0s"`, 1))
	call.Step = step
	values, ok := request.Secrets.(secrets)
	if !ok {
		t.Fatal("the fixture has other secrets")
	}
	input, err := json.Marshal(errand{Call: call, Secrets: values})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stdin = strings.NewReader(string(input))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	admin := place{driver: "pgx", dsn: c.primary.dsn[:strings.LastIndexByte(c.primary.dsn, '/')] + "/postgres?sslmode=disable"}
	name := filepath.Base(strings.SplitN(c.primary.dsn, "?", 2)[0])
	wait(t, "the primary is closed", func() bool {
		return cmp.Equal([]string{"promoting"}, admin.texts(t, "SELECT state FROM backstay_promote")) &&
			cmp.Equal([]string{name}, admin.texts(t, "SELECT datname FROM pg_database WHERE NOT datallowconn AND datname = '"+name+"'"))
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}
