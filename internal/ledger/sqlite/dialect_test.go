package sqlite

import (
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/backstay-dev/backstay/internal/ledger"
)

func TestClassifyKnowsTheDriver(t *testing.T) {
	t.Parallel()
	d := shipped()
	if got := d.classify(driver.ErrBadConn); got != ledger.Lost {
		t.Errorf("bad connection: got %d, want Lost", got)
	}
	if got := d.classify(errors.New("anything else")); got != ledger.Refused {
		t.Errorf("anything else: got %d, want Refused", got)
	}
	db, err := d.connect("/memory", 1, map[string][]string{"mode": {"memory"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "CREATE TABLE t (n INTEGER UNIQUE); INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	for statement, want := range map[string]ledger.Fault{
		"INSERT INTO t VALUES (1)": ledger.Refused,
		"SELECT FROM":              ledger.Refused,
		"PRAGMA max_page_count = 1; CREATE TABLE u (n); CREATE TABLE v (n); CREATE TABLE w (n)": ledger.Damaged,
	} {
		_, err := db.ExecContext(t.Context(), statement)
		if err == nil {
			t.Errorf("%s: want an error", statement)
			continue
		}
		if got := d.classify(err); got != want {
			t.Errorf("%s: %v: got %d, want %d", statement, err, got, want)
		}
	}
}
