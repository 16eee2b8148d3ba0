package database

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
)

// ScratchPrefix begins the names of scratch databases.
const ScratchPrefix = OwnPrefix + "scratch_"

// ScratchName is a new name for a scratch database.
func ScratchName() string { return ScratchPrefix + strings.ToLower(rand.Text()[:12]) }

// WithDatabase is a URL with another database. Nothing of it gets into the error.
func WithDatabase(address, name string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" && u.Path == "" {
		return "", errors.New("make a scratch database: the address is no URL; name a scratch database with --scratch")
	}
	q := u.Query()
	for _, other := range []string{"dbname", "database"} { // PostgreSQL's: they go before the path
		q.Del(other)
	}
	u.Path, u.RawPath, u.RawQuery = "/"+name, "", q.Encode()
	return u.String(), nil
}

// Making is how a server makes and drops a scratch database, and the rights that this
// needs.
type Making struct {
	Create, Drop func(name string) string
	Rights       string
}

// MakeScratch makes a scratch database on the server of a URL.
func MakeScratch(ctx context.Context, d Dialect, address string, by Making) (scratch string, remove func(context.Context) error, err error) {
	name := ScratchName()
	if scratch, err = WithDatabase(address, name); err != nil {
		return "", nil, err
	}
	run := func(ctx context.Context, statement string) (err error) {
		db, err := d.Open(address, "")
		if err != nil {
			return err //nolint:wrapcheck // callers say what for
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		_, err = db.ExecContext(ctx, statement)
		return d.Classify(err) //nolint:wrapcheck // callers say what for
	}
	// Given up in the middle, it would be made all the same.
	create, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := run(create, by.Create(name)); err != nil {
		return "", nil, &backstay.Error{
			Class: backstay.ClassOf(err), Op: "make a scratch database", Err: err,
			Hint: "the user needs the right to (" + by.Rights + "); or name an empty database with --scratch",
		}
	}
	remove = func(ctx context.Context) error {
		if err := run(ctx, by.Drop(name)); err != nil {
			return fmt.Errorf("remove scratch database %s: %w", name, err)
		}
		return nil
	}
	if ctx.Err() != nil {
		return "", nil, errors.Join(context.Cause(ctx), remove(create))
	}
	return scratch, remove, nil
}
