package migration_test

import (
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/driver/drivertest"
)

// shop is a directory with a first version, and three more that are pending: a
// table with rows of its own, a column that is filled, and what no transaction
// takes.
func (l lab) shop(tb testing.TB) string {
	tb.Helper()
	files := []string{
		"00001_base.sql", goose(l.base(), "DROP TABLE users;"),
		"00002_orders.sql", goose(
			"CREATE TABLE orders (id "+l.serial+", user_id bigint NOT NULL, state varchar(20) NOT NULL DEFAULT 'new');\nCREATE INDEX orders_by_user ON orders (user_id);\nINSERT INTO orders (id, user_id) VALUES (1, 1), (2, 1);",
			"DROP TABLE orders;"),
		"00003_level.sql", goose(
			"ALTER TABLE users ADD COLUMN level int NOT NULL DEFAULT 0;\nUPDATE users SET level = 3 WHERE id > 1;\nALTER TABLE orders ADD COLUMN note varchar(20);\nUPDATE orders SET state = 'paid', note = 'x' WHERE id = 1;",
			"UPDATE orders SET state = 'back' WHERE id = 2;\nALTER TABLE orders DROP COLUMN note;\nALTER TABLE users DROP COLUMN level;"),
	}
	if l.outside != "" {
		files = append(files, "00004_index.sql", goose(l.outside+";", l.back+";", "NO TRANSACTION"))
	}
	return write(tb, files...)
}

func (l lab) base() string {
	return "CREATE TABLE users (id " + l.serial + ", mail varchar(100) NOT NULL);"
}

// before puts the first version there, as goose would have.
func (l lab) before(tb testing.TB, p place) {
	tb.Helper()
	p.exec(tb, l.base(), "INSERT INTO users (id, mail) VALUES (1, 'a@example.org'), (2, 'b@example.org'), (3, 'c@example.org')")
	for _, s := range l.gooseTable() {
		p.exec(tb, s)
	}
	p.exec(tb, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true)", "INSERT INTO goose_db_version (version_id, is_applied) VALUES (1, true)")
}

func (l lab) gooseTable() []string {
	return []string{"CREATE TABLE goose_db_version (id " + l.serial + ", version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp DEFAULT CURRENT_TIMESTAMP)"}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, l := range labs() {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			make := l.shared(t)
			drivertest.Run(t, drivertest.Suite{
				MaxCuts:     12,
				CancelAfter: []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond, 60 * time.Millisecond},
				New: func(t *testing.T) drivertest.Fixture {
					t.Helper()
					p := make(t)
					l.before(t, p)
					f := p.fixture(l.shop(t), nil)
					f.World = func(tb testing.TB) map[string]string {
						tb.Helper()
						w := p.world(tb, "users")
						w["versions"] = listed(tb, p)
						return w
					}
					if l.name != "sqlite" {
						f.Canaries = []string{canary}
					}
					f.Spoil = func(tb testing.TB) { tb.Helper() }
					f.Mutations = []drivertest.Mutation{
						{Name: "another table", Apply: func(tb testing.TB) { tb.Helper(); p.exec(tb, "CREATE TABLE other (id int)") }},
						{Name: "another column", Apply: func(tb testing.TB) { tb.Helper(); p.exec(tb, "ALTER TABLE users ADD COLUMN nick varchar(10)") }},
						{Name: "an index", Apply: func(tb testing.TB) { tb.Helper(); p.exec(tb, "CREATE UNIQUE INDEX mails ON users (mail)") }},
						{Name: "a version", Apply: func(tb testing.TB) {
							tb.Helper()
							p.exec(tb, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (2, true)")
						}},
					}
					return f
				},
			})
		})
	}
}

func listed(tb testing.TB, p place) string {
	tb.Helper()
	text := ""
	for _, v := range p.texts(tb, "SELECT version_id FROM goose_db_version") {
		text += v + " "
	}
	return text
}
