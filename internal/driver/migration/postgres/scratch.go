package postgres

import (
	"context"
	"errors"
	"net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backstay-dev/backstay/internal/driver/migration/database"
)

// Scratch makes an empty database on the server of a URL.
func (d Dialect) Scratch(ctx context.Context, url string) (scratch string, remove func(context.Context) error, err error) {
	return d.Copy(ctx, url, "template0")
}

// Copy makes a database like another one, which nobody may use meanwhile, on the
// server of a URL.
func (d Dialect) Copy(ctx context.Context, url, template string) (scratch string, remove func(context.Context) error, err error) {
	return database.MakeScratch(ctx, d, url, database.Making{ //nolint:wrapcheck // says what it did
		Create: func(name string) string { return "CREATE DATABASE " + name + " TEMPLATE " + quote(template) },
		Drop:   func(name string) string { return "DROP DATABASE IF EXISTS " + name + " WITH (FORCE)" },
		Rights: "CREATEDB",
	})
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
