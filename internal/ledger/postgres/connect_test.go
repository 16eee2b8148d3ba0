package postgres

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/ledger"
)

func TestConfigure(t *testing.T) {
	t.Parallel()
	limits := map[string]string{
		"application_name": "backstay", "synchronous_commit": "on", "statement_timeout": "7500",
		"lock_timeout": "7500", "idle_in_transaction_session_timeout": "7500",
	}
	with := func(name, value string) map[string]string {
		all := map[string]string{name: value}
		for k, v := range limits {
			if _, set := all[k]; !set {
				all[k] = v
			}
		}
		return all
	}
	for _, c := range []struct {
		name, dsn string
		want      map[string]string
	}{
		{"plain", "postgres://u:p@h:1/d", limits},
		{"weaker durability is not taken", "postgres://u@h/d?synchronous_commit=off", limits},
		{"stronger durability is", "postgres://u@h/d?synchronous_commit=remote_apply", with("synchronous_commit", "remote_apply")},
		{"no unbounded statement", "postgres://u@h/d?statement_timeout=0", limits},
		{"search path", "postgres://u@h/d?search_path=x", with("search_path", "x")},
	} {
		config, err := configure(c.dsn, 15*time.Second)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(c.want, config.RuntimeParams); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if config.ValidateConnect == nil {
			t.Errorf("%s: a server that takes no writes is not refused", c.name)
		}
	}
}

func TestPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-canary"
	_, err := configure("postgres://user:"+secret+"@host:notaport/d", time.Second)
	if _, ok := errors.AsType[*backstay.RefusedError](err); !ok || strings.Contains(err.Error(), secret) {
		t.Errorf("a bad URL: got %v, want a refusal without the password", err)
	}
	config, err := configure("postgres://user:"+secret+"@host:5433/d?sslmode=disable", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(config), "postgres://user@host:5433/d"; got != want {
		t.Errorf("description: got %q, want %q", got, want)
	}
	_, err = Open(t.Context(), "postgres://user:"+secret+"@127.0.0.1:1/d?connect_timeout=1", ledger.Options{})
	if err == nil || strings.Contains(err.Error(), secret) || backstay.HintOf(err) == "" {
		t.Errorf("no server: got %v, want a hint and no password", err)
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want ledger.Fault
	}{
		{&pgconn.PgError{Code: "23505"}, ledger.Refused},
		{&pgconn.PgError{Code: "53100"}, ledger.Refused},
		{&pgconn.PgError{Code: "40001"}, ledger.Busy},
		{&pgconn.PgError{Code: "40P01"}, ledger.Busy},
		{&pgconn.PgError{Code: "57014"}, ledger.Lost},
		{&pgconn.PgError{Code: "57P01"}, ledger.Lost},
		{&pgconn.PgError{Code: "08006"}, ledger.Lost},
		{&pgconn.PgError{Code: "25006"}, ledger.Lost},
		{&pgconn.PgError{Code: "XX001"}, ledger.Damaged},
		{fmt.Errorf("wrapped: %w", io.ErrUnexpectedEOF), ledger.Lost},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, ledger.Lost},
		{driver.ErrBadConn, ledger.Lost},
		{errors.New("anything else"), ledger.Refused},
	} {
		if got := classify(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}
