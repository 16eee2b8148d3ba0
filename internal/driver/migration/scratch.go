package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/clients"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/mysql"
	"github.com/backstay-dev/backstay/internal/driver/migration/postgres"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqlite"
	"github.com/backstay-dev/backstay/internal/durable"
	"github.com/backstay-dev/backstay/internal/proc"
)

// Sandbox allows every step: a database that is a file is in the sandbox's view,
// and a server's has a stand-in (Scratch).
func (*Kind) Sandbox(backstay.Step) error { return nil }

// scratch is the template from which a drill's cells get their databases: the
// schema of a step's database and the rows of the tool's version table.
type scratch struct {
	dialect   string
	address   string // the reference in the plan
	url       string // of the step's own database; may hold a password
	dir       string // holds the dump
	dumps     []string
	databases []string // MariaDB's and MySQL's, which the dump must not name
	without   []string // Backstay's own tables, as the dumping program wants them named
	// template is the database that PostgreSQL copies; empty elsewhere.
	template string
	remove   func(context.Context) error
}

// Scratch dumps the schema of the step's database, and makes the template on the
// same server. Rows of users are not read.
func (*Kind) Scratch(ctx context.Context, step backstay.Step, secrets backstay.Secrets) (backstay.Scratch, error) {
	b, err := decode(step)
	if err != nil {
		return nil, err
	}
	if b.Dialect == "sqlite" {
		return nil, nil //nolint:nilnil // the sandbox has a view of the file
	}
	return newScratch(ctx, b, secrets)
}

// newScratch makes the template for a server's database.
func newScratch(ctx context.Context, b body, secrets backstay.Secrets) (_ *scratch, err error) {
	if program := clients.Missing(clients.Dumpers(b.Dialect, true)); program != "" {
		return nil, fmt.Errorf("a scratch database is made with %s, which is not installed here", program)
	}
	s := &scratch{dialect: b.Dialect, address: b.Address}
	if s.url, err = session.URL(secrets, b.Address); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	t, err := session.Reach(ctx, secrets, b.Address, "", b.Identity)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	tables, err := t.Dialect.Tables(ctx, t.Conn)
	if err == nil {
		s.without, err = ownTables(ctx, t)
	}
	if err == nil {
		err = s.keepsTo(ctx, t, b)
	}
	if err = errors.Join(err, t.Close()); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "backstay-scratch-"); err != nil {
		return nil, fmt.Errorf("make a scratch database: %w", err)
	}
	_, versions := tables[b.Table]
	if err := s.make(ctx, b.Table, versions); err != nil {
		return nil, errors.Join(err, s.Remove(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// keepsTo refuses what would act on other databases from a scratch one: of the
// migrations, and of what is there.
func (s *scratch) keepsTo(ctx context.Context, t *session.Session, b body) error {
	others, err := b.keepsTo(ctx, t)
	if err != nil {
		return err
	}
	if s.dialect == "mysql" {
		s.databases = append(others, t.Identity.Database)
		if name := mysql.Elsewhere(b.Qualified, s.databases); name != "" {
			return namesOther(name)
		}
		return nil
	}
	what, err := postgres.Leads(ctx, t.Conn)
	if err == nil && what != "" {
		err = fmt.Errorf("%s from a scratch database", what)
	}
	return err
}

// keepsTo refuses migrations that would act on other databases than the one of a
// session, and lists those of MariaDB and MySQL.
func (b body) keepsTo(ctx context.Context, t *session.Session) (others []string, err error) {
	if b.Reaches != "" {
		return nil, fmt.Errorf("a statement of its migrations %s, and would from a scratch database too", b.Reaches)
	}
	if b.Dialect != "mysql" {
		return nil, nil
	}
	if others, err = mysql.Databases(ctx, t.Conn); err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	if name := mysql.Elsewhere(b.Qualified, others); name != "" {
		return nil, namesOther(name)
	}
	return others, nil
}

func namesOther(name string) error {
	return fmt.Errorf("its migrations name the database %s, and would act on it from a scratch database", name)
}

func (s *scratch) host() clients.Host {
	return clients.Host{Dir: s.dir, Token: proc.Token{Deployment: "drill", Step: "scratch"}}
}

// make writes the dumps, and loads them once: what cannot be loaded is found out
// before the first cell.
func (s *scratch) make(ctx context.Context, table string, versions bool) error {
	schema := clients.Dump{URL: s.url, File: filepath.Join(s.dir, "schema"), Only: clients.Schema, Without: s.without}
	wanted := []clients.Dump{schema}
	if versions {
		wanted = append(wanted, clients.Dump{URL: s.url, File: filepath.Join(s.dir, "versions"), Only: clients.Rows, Table: table})
	}
	for _, d := range wanted {
		if err := s.host().Dump(ctx, s.dialect, d); err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		s.dumps = append(s.dumps, d.File)
	}
	if s.dialect == "mysql" {
		text, err := os.ReadFile(schema.File)
		if err != nil {
			return fmt.Errorf("make a scratch database: %w", err)
		}
		if what := mysql.Leads(string(text), s.databases); what != "" {
			return fmt.Errorf("its schema has %s, and would act there from a scratch database", what)
		}
	}
	made, remove, err := s.loaded(ctx)
	if err != nil {
		return err
	}
	if s.dialect != "postgres" {
		return remove(ctx)
	}
	s.remove = remove
	s.template, err = nameIn(made)
	return err
}

// ownTables are Backstay's own, as the dumping program wants them named.
func ownTables(ctx context.Context, s *session.Session) (names []string, err error) {
	if s.Dialect.Name() == "postgres" {
		return []string{database.OwnPrefix + "*"}, nil
	}
	rows, err := s.Conn.QueryContext(ctx, `SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'backstay\_%'`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", s.Dialect.Classify(err))
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("list tables: %w", err)
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// loaded is a new database that the dumps were loaded into.
func (s *scratch) loaded(ctx context.Context) (made string, remove func(context.Context) error, err error) {
	d, err := session.DialectOf(s.url)
	if err != nil {
		return "", nil, fmt.Errorf("make a scratch database: %w", err)
	}
	if made, remove, err = d.Scratch(ctx, s.url); err != nil {
		return "", nil, err //nolint:wrapcheck // says what it did
	}
	for _, file := range s.dumps {
		if err := s.host().Load(ctx, s.dialect, made, file); err != nil {
			return "", nil, errors.Join(err, remove(context.WithoutCancel(ctx)))
		}
	}
	return made, remove, nil
}

// nameIn is the database that a URL made by Scratch names.
func nameIn(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("make a scratch database: its address is no URL")
	}
	return strings.TrimPrefix(u.Path, "/"), nil
}

// Copy makes a database for one cell.
func (s *scratch) Copy(ctx context.Context, door string) (out backstay.ScratchCopy, err error) {
	var made string
	if s.template != "" {
		made, out.Remove, err = postgres.Dialect{}.Copy(ctx, s.url, s.template)
	} else {
		made, out.Remove, err = s.loaded(ctx)
	}
	if err != nil {
		return out, err //nolint:wrapcheck // says what it did
	}
	through := mysql.Through
	if s.dialect == "postgres" {
		through = postgres.Through
	}
	name, err := nameIn(made)
	var inside, network, server string
	if err == nil {
		inside, network, server, err = through(s.url, door, name)
	}
	if err != nil {
		return out, errors.Join(err, out.Remove(context.WithoutCancel(ctx)))
	}
	out.Secrets = map[string]string{s.address: inside}
	out.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}
	return out, nil
}

// Remove removes the template and the dumps.
func (s *scratch) Remove(ctx context.Context) error {
	var err error
	if s.remove != nil {
		err = s.remove(ctx)
		s.remove = nil
	}
	return errors.Join(err, durable.RemoveAll(s.dir))
}

// Rebind makes of a frozen step the one that acts on what the references lead to
// in a sandbox. What is no scratch database there is refused.
func (*Kind) Rebind(ctx context.Context, call backstay.Call) (step backstay.Step, err error) {
	b, err := decode(call.Step)
	if err != nil {
		return step, err
	}
	files, err := b.files(call.Secrets)
	if err != nil {
		return step, err
	}
	for _, file := range files {
		if err := own(file); err != nil {
			return step, fmt.Errorf("open the database in a sandbox: %w", err)
		}
	}
	s, err := session.Open(ctx, call.Secrets, b.Address, "")
	if err != nil {
		return step, err //nolint:wrapcheck // says what it did
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if b.Dialect != "sqlite" && !strings.HasPrefix(s.Identity.Database, database.ScratchPrefix) {
		return step, fmt.Errorf("%s is no scratch database: a drill does not touch it", s.Identity.Database)
	}
	// The template was made for one of the database's steps only.
	if _, err := b.keepsTo(ctx, s); err != nil {
		return step, err
	}
	b.Identity = s.Identity
	step = call.Step
	step.Body = backstay.Canonical(b)
	return step, nil
}

// files are those of a database on this host: SQLite's, and what it keeps beside
// it.
func (b body) files(secrets backstay.Secrets) ([]string, error) {
	if b.Dialect != "sqlite" {
		return nil, nil
	}
	address, err := session.URL(secrets, b.Address)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it did
	}
	path, err := sqlite.Path(address)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	return []string{path, path + "-wal", path + "-shm", path + "-journal"}, nil
}

// own makes a file the sandbox's own before it is identified: with the first write
// it becomes another one.
func own(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}
