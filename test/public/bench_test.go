package public_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	migratesqlite "github.com/golang-migrate/migrate/v4/database/sqlite"
	_ "github.com/golang-migrate/migrate/v4/source/file"
	"github.com/pressly/goose/v3"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/drivertest"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/parts"
)

// made are n migrations, each of a table with an index, as goose and as golang-migrate
// read them.
func made(b *testing.B, n int) (asGoose, asMigrate string) {
	b.Helper()
	asGoose, asMigrate = b.TempDir(), b.TempDir()
	for i := 1; i <= n; i++ {
		up := fmt.Sprintf("CREATE TABLE t%d (id bigint PRIMARY KEY, mail varchar(100) NOT NULL);\nCREATE INDEX t%d_mail ON t%d (mail);\n", i, i, i)
		down := fmt.Sprintf("DROP TABLE t%d;\n", i)
		for path, text := range map[string]string{
			filepath.Join(asGoose, fmt.Sprintf("%03d_t.sql", i)):        "-- +goose Up\n" + up + "-- +goose Down\n" + down,
			filepath.Join(asMigrate, fmt.Sprintf("%03d_t.up.sql", i)):   up,
			filepath.Join(asMigrate, fmt.Sprintf("%03d_t.down.sql", i)): down,
		} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	return asGoose, asMigrate
}

// BenchmarkApply applies ten and a hundred migrations to an empty database, by turns with
// goose, with golang-migrate and with Backstay, and reports how many times the
// others' time Backstay takes. Backstay's is with the plan (which reads the schema)
// and without; the ledger is not in it.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 100} {
		asGoose, asMigrate := made(b, n)
		b.Run(fmt.Sprintf("postgres/%d", n), func(b *testing.B) {
			pg := parts.StartPostgres(b)
			compare(b, n, asGoose, asMigrate, goose.DialectPostgres, "pgx", func() (dsn, url string) {
				dsn = pg.Database(b)
				return dsn, dsn
			}, func(db *sql.DB) (database.Driver, error) { return migratepgx.WithInstance(db, &migratepgx.Config{}) })
		})
		b.Run(fmt.Sprintf("sqlite/%d", n), func(b *testing.B) {
			compare(b, n, asGoose, asMigrate, goose.DialectSQLite3, "sqlite", func() (dsn, url string) {
				path := filepath.Join(b.TempDir(), "bench.db")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					b.Fatal(err)
				}
				return path, "sqlite:" + path
			}, func(db *sql.DB) (database.Driver, error) {
				return migratesqlite.WithInstance(db, &migratesqlite.Config{})
			})
		})
	}
}

func compare(b *testing.B, n int, asGoose, asMigrate string, dialect goose.Dialect, driver string, empty func() (dsn, url string), instance func(*sql.DB) (database.Driver, error)) {
	b.Helper()
	var with [4]time.Duration // goose, golang-migrate, Backstay's step, and its plan
	for b.Loop() {
		dsn, _ := empty()
		with[0] += timed(b, func() error { return byGoose(b.Context(), dialect, driver, dsn, asGoose, n) })
		dsn, _ = empty()
		with[1] += timed(b, func() error { return byMigrate(driver, dsn, asMigrate, instance) })
		_, url := empty()
		var call backstay.Call
		with[3] += timed(b, func() (err error) { call, err = prepared(b, url, asGoose); return err })
		with[2] += timed(b, func() error { _, err := migration.New().Do(b.Context(), call); return err })
	}
	times := float64(b.N)
	b.ReportMetric(with[0].Seconds()*1000/times, "goose-ms")
	b.ReportMetric(with[1].Seconds()*1000/times, "golang-migrate-ms")
	b.ReportMetric(with[2].Seconds()*1000/times, "backstay-ms")
	b.ReportMetric(with[3].Seconds()*1000/times, "backstay-plan-ms")
	b.ReportMetric(with[2].Seconds()/with[0].Seconds(), "×goose")
	b.ReportMetric(with[2].Seconds()/with[1].Seconds(), "×golang-migrate")
	b.ReportMetric(0, "ns/op")
}

func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

func byGoose(ctx context.Context, dialect goose.Dialect, driver, dsn, dir string, n int) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	p, err := goose.NewProvider(dialect, db, os.DirFS(dir))
	if err != nil {
		return err
	}
	all, err := p.Up(ctx)
	if err == nil && len(all) != n {
		err = fmt.Errorf("%d were applied", len(all))
	}
	return err
}

func byMigrate(driver, dsn, dir string, instance func(*sql.DB) (database.Driver, error)) error {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	d, err := instance(db)
	if err != nil {
		return err
	}
	m, err := migrate.NewWithDatabaseInstance("file://"+dir, driver, d)
	if err != nil {
		return err
	}
	err = m.Up()
	_, closed := m.Close()
	return errors.Join(err, closed)
}

// prepared plans Backstay's step.
func prepared(b *testing.B, url, dir string) (backstay.Call, error) {
	b.Helper()
	config, err := json.Marshal(map[string]any{"migrate": map[string]any{"database": "secret:env/DATABASE_URL", "dir": dir}})
	if err != nil {
		return backstay.Call{}, err
	}
	if strings.HasPrefix(url, "sqlite:") {
		config = []byte(strings.Replace(string(config), "secret:env/DATABASE_URL", url, 1))
	}
	t := drivertest.NewTrial(b, drivertest.Fixture{Kind: migration.New(), Request: backstay.Request{
		ID: "schema", Release: "bench", Config: config, Dir: dir, Secrets: secret(url), Blobs: drivertest.NewBlobs(),
	}})
	return t.Call(), nil
}

// BenchmarkVerifyHundred is migrate verify of the same hundred.
func BenchmarkVerifyHundred(b *testing.B) {
	const hundred = 100
	asGoose, _ := made(b, hundred)
	dsn := parts.StartPostgres(b).DSN()
	config, err := json.Marshal(map[string]any{"migrate": map[string]any{"database": "secret:env/DATABASE_URL", "dir": asGoose}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		v, err := migration.New().Verify(b.Context(), backstay.Request{
			ID: "schema", Release: "bench", Config: config, Dir: asGoose, DataDir: b.TempDir(), Secrets: secret(dsn),
		}, backstay.VerifyFrom{})
		if err != nil || len(v.Migrations) != hundred || v.Migrations[hundred-1].Result != backstay.VerifiedRestores {
			b.Fatalf("%d migrations, %v", len(v.Migrations), err)
		}
	}
}
