package mysql

import (
	"context"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Scratch makes an empty database on the server of a URL.
func (d Dialect) Scratch(ctx context.Context, url string) (scratch string, remove func(context.Context) error, err error) {
	return database.MakeScratch(ctx, d, url, database.Making{ //nolint:wrapcheck // says what it did
		Create: func(name string) string { return "CREATE DATABASE " + name },
		Drop:   func(name string) string { return "DROP DATABASE IF EXISTS " + name },
		Rights: "CREATE and DROP",
	})
}
