package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Scratch makes an empty database on the server of a URL.
func (d Dialect) Scratch(ctx context.Context, url string) (scratch string, remove func(context.Context) error, err error) {
	return d.Copy(ctx, url, "template0")
}

// Copy makes a database like another one, which nobody may use meanwhile, on the
// server of a URL.
func (d Dialect) Copy(ctx context.Context, url, template string) (scratch string, remove func(context.Context) error, err error) {
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
	if err := run(create, "CREATE DATABASE "+name+" TEMPLATE "+quote(template)); err != nil {
		return "", nil, &backstay.Error{
			Class: backstay.ClassOf(err), Op: "make a scratch database", Err: err,
			Hint: "the user needs the right to (CREATEDB); or name an empty database with --scratch",
		}
	}
	remove = func(ctx context.Context) error {
		if err := run(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("remove scratch database %s: %w", name, err)
		}
		return nil
	}
	if ctx.Err() != nil {
		return "", nil, errors.Join(context.Cause(ctx), remove(create))
	}
	return scratch, remove, nil
}

// Through is the URL of another database of the same server, reached at the door
// (host:port), and where that has to lead.
func Through(address, door, name string) (through, network, server string, err error) {
	cfg, err := pgx.ParseConfig(address)
	if err != nil {
		return "", "", "", errors.New("its address is no URL")
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", "", errors.New("its address is no URL")
	}
	q := u.Query()
	for _, place := range []string{"host", "hostaddr", "port", "dbname", "database"} {
		q.Del(place)
	}
	network, server = pgconn.NetworkAddress(cfg.Host, cfg.Port)
	if network == "unix" {
		q.Set("sslmode", "disable") // there is none on a local socket
	}
	u.Host, u.Path, u.RawQuery = door, "/"+name, q.Encode()
	return u.String(), network, server, nil
}
