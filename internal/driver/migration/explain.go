package migration

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

var _ driver.Explainer = (*Kind)(nil)

// Explain gives the commands of the tool whose files they are: Backstay keeps its
// table, so a person can go on with it.
func (*Kind) Explain(step backstay.Step) (backstay.Explanation, error) {
	b, err := decode(step)
	if err != nil {
		return backstay.Explanation{}, err
	}
	out := backstay.Explanation{Read: b.shown()}
	if len(b.Pending) == 0 {
		out.Do = []backstay.Command{{Note: step.Summary}}
		return out, nil
	}
	newest, before := b.Pending[len(b.Pending)-1].Version, ""
	if n := len(b.Before); n > 0 {
		before = b.Before[n-1]
	}
	up, down := b.typed(newest, before)
	out.Do = []backstay.Command{{
		Note: fmt.Sprintf("%s; Backstay applies %s itself, under a lock of the database, with timeouts, and a marker beside each that tells after a crash how far it came", place, b.pendingFiles()),
		Line: up,
	}}
	if step.HasUndo {
		out.Undo = []backstay.Command{{
			Note: fmt.Sprintf("%s; Backstay first counts what was written since into what goes, refuses to lose it, and compares the schema with its dump from before", place),
			Line: down,
		}}
	}
	return out, nil
}

const place = "in the directory of the migrations"

func (b body) pendingFiles() string {
	var names []string
	for _, c := range b.Pending {
		names = append(names, c.Up.File)
	}
	return list(names)
}

// address is the database's as a word of a shell: a reference stays one.
func (b body) address() string {
	if path, ok := strings.CutPrefix(b.Address, session.SQLitePrefix); ok {
		return driver.ShellWord(path)
	}
	return driver.ShellValue("DATABASE_URL", b.Address)
}

// typed are the tool's commands up to a version, and back to another. Where the
// tool wants its own form of address, that is a person's to know.
func (b body) typed(newest, before string) (up, down string) {
	newest = driver.ShellWord(newest)
	switch files.Convention(b.Convention) {
	case files.Goose:
		dialect := map[string]string{"postgres": "postgres", "mysql": "mysql", "sqlite": "sqlite3"}[b.Dialect]
		goose := "goose -dir . -table " + driver.ShellWord(bare(b.Table)) + " " + dialect + " " + b.address()
		return goose + " up-to " + newest, goose + " down-to " + driver.ShellWord(cmp.Or(before, "0"))
	case files.GolangMigrate:
		migrate := "migrate -path . -database " + b.address()
		if before == "" {
			return migrate + " goto " + newest, migrate + " down -all"
		}
		return migrate + " goto " + newest, migrate + " goto " + driver.ShellWord(before)
	case files.Dbmate:
		dbmate := "dbmate --url " + b.address() + " --migrations-dir . --migrations-table " + driver.ShellWord(bare(b.Table))
		backs := make([]string, len(b.Pending))
		for i := range backs {
			backs[i] = dbmate + " rollback"
		}
		return dbmate + " up", strings.Join(backs, " && ")
	case files.Flyway:
		flyway := "flyway -url=" + b.address() + " -locations=filesystem:."
		return flyway + " -target=" + newest + " migrate", flyway + " -target=" + driver.ShellWord(b.Pending[0].Version) + " undo"
	}
	return "", ""
}

// shown are the commands that show what the step changes.
func (b body) shown() []backstay.Command {
	query := driver.ShellWord("SELECT * FROM " + b.Table)
	switch b.Dialect {
	case "postgres":
		return []backstay.Command{
			{Note: "the schema", Line: "pg_dump --schema-only " + b.address()},
			{Note: "what is applied", Line: "psql -X " + b.address() + " -c " + query},
		}
	case "mysql":
		return []backstay.Command{{Note: "the schema; host and user as in " + b.Address, Line: "mariadb-dump --no-data --routines --triggers " + driver.ShellWord(b.Identity.Database)}}
	}
	return []backstay.Command{
		{Note: "the schema", Line: "sqlite3 " + b.address() + " .schema"},
		{Note: "what is applied", Line: "sqlite3 " + b.address() + " " + query},
	}
}
