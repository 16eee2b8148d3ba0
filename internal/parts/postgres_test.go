package parts_test

import (
	"database/sql"
	"testing"

	"github.com/backstay-dev/backstay/internal/parts"
)

func TestPostgresKeepsCommitsThroughKillAndRestart(t *testing.T) {
	t.Parallel()
	pg := parts.StartPostgres(t)
	dsn := pg.Database(t)
	pg.Exec(t, dsn, "CREATE TABLE kept (n BIGINT)")
	for i, down := range []func(testing.TB){pg.Restart, func(tb testing.TB) { tb.Helper(); pg.Kill(tb); pg.Start(tb) }} {
		pg.Exec(t, dsn, "INSERT INTO kept (n) VALUES ($1)", i)
		down(t)
		if got := count(t, dsn); got != i+1 {
			t.Errorf("rows after stop %d: got %d, want %d", i, got, i+1)
		}
	}
	if other := pg.Database(t); other == dsn {
		t.Errorf("second database has the URL of the first: %s", other)
	}
}

func count(t *testing.T, dsn string) int {
	t.Helper()
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM kept").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
