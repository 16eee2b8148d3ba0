package mysql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Scratch makes an empty database on the server of a URL.
func (d Dialect) Scratch(ctx context.Context, url string) (scratch string, remove func(context.Context) error, err error) {
	name := database.ScratchName()
	if scratch, err = database.WithDatabase(url, name); err != nil {
		return "", nil, err //nolint:wrapcheck // says what it did
	}
	run := func(ctx context.Context, statement string) (err error) {
		db, err := d.Open(url, "")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		_, err = db.ExecContext(ctx, statement)
		return classify(err)
	}
	// Given up in the middle, it would be made all the same.
	create, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := run(create, "CREATE DATABASE "+name); err != nil {
		return "", nil, &backstay.Error{
			Class: backstay.ClassOf(err), Op: "make a scratch database", Err: err,
			Hint: "the user needs the right to (CREATE and DROP); or name an empty database with --scratch",
		}
	}
	remove = func(ctx context.Context) error {
		if err := run(ctx, "DROP DATABASE IF EXISTS "+name); err != nil {
			return fmt.Errorf("remove scratch database %s: %w", name, err)
		}
		return nil
	}
	if ctx.Err() != nil {
		return "", nil, errors.Join(context.Cause(ctx), remove(create))
	}
	return scratch, remove, nil
}
