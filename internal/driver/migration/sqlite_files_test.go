package migration_test

import (
	"os"
	"strings"
	"testing"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration"
)

// SQLite runs all statements of a text that goose is told to take as one: each is
// judged.
func TestSQLiteReachesNoOtherFile(t *testing.T) {
	t.Parallel()
	p := labs()[0].shared(t)(t)
	other := labs()[0].shared(t)(t)
	path := strings.TrimPrefix(other.url, "sqlite:")
	for what, up := range map[string]string{
		"attach": "-- +goose StatementBegin\nCREATE TABLE a (id int);\nATTACH '" + path + "' AS o;\nCREATE TABLE o.b (id int);\n-- +goose StatementEnd",
		"vacuum": "VACUUM INTO '" + path + "';",
	} {
		f := p.fixture(write(t, "1_a.sql", goose(up, "SELECT 1;", "NO TRANSACTION")), nil)
		v, err := migration.New().Verify(t.Context(), f.Request, backstay.VerifyFrom{})
		if err != nil || v.Migrations[0].Result != backstay.VerifiedUpFails || !strings.Contains(v.Migrations[0].Reason, "nothing here puts back") {
			t.Errorf("%s: verify: %v, %+v", what, err, v.Migrations)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 0 {
		t.Errorf("the other database was written: %v, %v", info, err)
	}
}
