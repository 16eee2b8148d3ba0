package migration_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/parts"
)

// PostgreSQL's URL may name the database behind the question mark, where it goes before
// the path.
func TestScratchOfADatabaseNamedInTheQuery(t *testing.T) {
	t.Parallel()
	p := labs()[1].shared(t)(t)
	address, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	q := address.Query()
	q.Set("dbname", strings.TrimPrefix(address.Path, "/"))
	address.Path, address.RawQuery = "/postgres", q.Encode()
	p.url = address.String()
	p.exec(t, "CREATE TABLE users (id int)")
	before := p.dump(t)
	f := p.fixture(write(t, "1_a.sql", goose("CREATE TABLE left_over (id int);", "SELECT 1;")), nil)
	for _, from := range []backstay.VerifyFrom{{}, {Restored: true}} {
		v, err := migration.New().Verify(t.Context(), f.Request, from)
		if err != nil || v.Migrations[0].Result != backstay.VerifiedDiffers {
			t.Errorf("verify: %v, %+v", err, v.Migrations)
		}
	}
	if diff := cmp.Diff(before, p.dump(t)); diff != "" {
		t.Errorf("the step's own database changed:\n%s", diff)
	}
}

// A subscription in a scratch database would bear the name of the publisher's slot, and
// keep the database from being dropped.
func TestScratchHasNoSubscriptions(t *testing.T) {
	t.Parallel()
	p := labs()[1].shared(t)(t)
	p.exec(t, "CREATE SUBSCRIPTION others CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)")
	t.Cleanup(func() {
		p.exec(t, "ALTER SUBSCRIPTION others SET (slot_name = NONE)", "DROP SUBSCRIPTION others")
	})
	f := p.fixture(write(t, "1_a.sql", goose("CREATE TABLE b (id int);", "DROP TABLE b;")), nil)
	s, err := migration.New().Scratch(t.Context(), drivertest.NewTrial(t, f).Step, f.Request.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whoever gives up while a database is being made leaves none.
func TestScratchGivenUpIsGone(t *testing.T) {
	t.Parallel()
	parts.Real(t)
	p := labs()[2].start(t)(t) // its own server: others make such databases too
	db := p.open(t)
	defer db.Close()
	held, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := held.ExecContext(t.Context(), "FLUSH TABLES WITH READ LOCK"); err != nil { // nobody makes a database now
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, _, err := mysql.Dialect{}.Scratch(ctx, p.url)
		ended <- err
	}()
	const waits = "SELECT 'waits' FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE DATABASE%'"
	for len(p.texts(t, waits)) == 0 {
		if t.Context().Err() != nil {
			t.Fatal("it never waited")
		}
	}
	cancel()
	time.AfterFunc(200*time.Millisecond, func() { _, _ = held.ExecContext(context.WithoutCancel(ctx), "UNLOCK TABLES") })
	if err := <-ended; err == nil {
		t.Error("it was made")
	}
	for len(p.texts(t, waits)) > 0 {
		if t.Context().Err() != nil {
			t.Fatal("it waits for ever")
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 10 { // the server goes on with what nobody waits for
		<-tick.C
		if all := p.texts(t, "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'backstay\\_scratch\\_%'"); len(all) > 0 {
			t.Fatalf("left: %q", all)
		}
	}
}
