// Package session opens the databases that steps act on: it resolves the
// reference to a URL, finds out which database that is, and makes sure later that
// it still is the same.
//
// It owns the session (one connection with its dialect and identity) and the
// names of databases in keys. No URL gets into an error.
package session

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/driver/migration/postgres"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqlite"
)

// The ways an address begins that a spec may hold.
const (
	SecretPrefix = "secret:"
	SQLitePrefix = "sqlite:"
)

// Session is one open connection to a step's database.
type Session struct {
	Dialect  database.Dialect
	DB       *sql.DB
	Conn     *sql.Conn
	Identity database.Identity
}

// CheckAddress says what is wrong with an address in a spec; empty: nothing.
func CheckAddress(address string) (message, hint string) {
	if strings.HasPrefix(address, SecretPrefix) || strings.HasPrefix(address, SQLitePrefix) {
		return "", ""
	}
	// Not repeated: it may hold a password.
	return "is neither a reference to a secret nor the path of a SQLite file (sqlite:…)", "put the URL into a variable or file and write secret:env/NAME or secret:file/PATH"
}

// Address is what a plan keeps of an address: a reference, or SQLite's path made
// absolute from dir.
func Address(address, dir string) string {
	path, ok := strings.CutPrefix(address, SQLitePrefix)
	if !ok {
		return address
	}
	path = strings.TrimPrefix(path, "//")
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return SQLitePrefix + filepath.Clean(path)
}

// DialectOf finds the database of a URL by its scheme.
func DialectOf(url string) (database.Dialect, error) {
	scheme, _, _ := strings.Cut(url, ":")
	switch strings.ToLower(scheme) {
	case "postgres", "postgresql":
		return postgres.Dialect{}, nil
	case "mysql", "mariadb":
		return mysql.Dialect{}, nil
	case "sqlite":
		return sqlite.Dialect{}, nil
	}
	return nil, errors.New("the URL begins with none of postgres, mysql, mariadb and sqlite before its colon")
}

// URL resolves an address. What it returns may hold a password.
func URL(secrets backstay.Secrets, address string) (string, error) {
	if !strings.HasPrefix(address, SecretPrefix) {
		return address, nil
	}
	if secrets == nil {
		return "", errors.New("open the database: there is nothing here to resolve secrets with")
	}
	url, err := secrets.Resolve(address)
	if err != nil {
		return "", fmt.Errorf("open the database: %w", err)
	}
	return url, nil
}

// Open resolves an address and connects. owner names whose session it is; empty
// for one that only looks.
func Open(ctx context.Context, secrets backstay.Secrets, address, owner string) (*Session, error) {
	url, err := URL(secrets, address)
	if err != nil {
		return nil, err
	}
	d, err := DialectOf(url)
	if err != nil {
		return nil, fmt.Errorf("open the database of %s: %w", address, err)
	}
	db, err := d.Open(url, owner)
	if err != nil {
		return nil, fmt.Errorf("open the database of %s: %w", address, err)
	}
	s := &Session{Dialect: d, DB: db}
	if s.Conn, err = db.Conn(ctx); err == nil {
		s.Identity, err = d.Identity(ctx, s.Conn)
	}
	if err != nil {
		return nil, errors.Join(&backstay.Error{
			Class: backstay.ClassOf(d.Classify(err)), Op: "open the database of", Subject: address, Err: d.Classify(err),
			Hint: "check that it runs and can be reached from here",
		}, s.Close())
	}
	return s, nil
}

// Reach opens the database that a plan names, and refuses any other.
func Reach(ctx context.Context, secrets backstay.Secrets, address, owner string, want database.Identity) (*Session, error) {
	s, err := Open(ctx, secrets, address, owner)
	if err != nil {
		return nil, err
	}
	if !s.Identity.Same(want) {
		err := &backstay.Error{
			Class: backstay.Conflict, Op: "check the database of", Subject: address,
			Err:  fmt.Errorf("this is another database (%s, %s) than the plan was made for (%s, %s)", s.Identity.System, s.Identity.Database, want.System, want.Database),
			Hint: "point the reference at the database of the plan, or plan again",
		}
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends the session.
func (s *Session) Close() error {
	var err error
	if s.Conn != nil {
		if err = s.Conn.Close(); errors.Is(err, sql.ErrConnDone) {
			err = nil
		}
	}
	return errors.Join(err, s.DB.Close())
}

// Name is a database in keys: "postgres/7123…/shop/public".
func Name(dialect string, id database.Identity) string {
	name := id.System + "/" + id.Database
	if id.Schema != "" {
		name += "/" + id.Schema
	}
	if dialect == "sqlite" {
		name = id.Database
	}
	return dialect + "/" + strings.TrimPrefix(name, "/")
}
