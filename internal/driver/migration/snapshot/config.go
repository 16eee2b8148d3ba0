package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/clients"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

const (
	defaultMost    = 1024 // MiB
	defaultWithin  = backstay.Duration(60e9)
	defaultTimeout = backstay.Duration(1800e9)

	dumpMethod  = "dump"
	pointMethod = "restore-point"
)

// stepConfig are the keys of a snapshot step.
type stepConfig struct {
	Snapshot config `yaml:"snapshot" json:"snapshot" required:"true" doc:"Take a snapshot of a database that it can be restored from, by people." example:"{database: \"secret:env/DATABASE_URL\", into: /var/backups/shop}"`
}

type config struct {
	Database string            `yaml:"database" json:"database" required:"true" doc:"The URL of the database, as a reference to a secret. Only a SQLite path may be written here itself." example:"secret:env/DATABASE_URL"`
	Method   string            `yaml:"method" json:"method,omitempty" enum:"dump,restore-point" doc:"A dump into a file, or a named place in PostgreSQL's log, from which an archive and a base backup restore. Default: dump." example:"restore-point"`
	Into     string            `yaml:"into" json:"into,omitempty" doc:"dump: the directory for the files. It must be there; who can read the files can read the database." example:"/var/backups/shop"`
	Most     int               `yaml:"most" json:"most,omitempty" doc:"dump: how many MiB the database may hold at most. Default: 1024." example:"4096"`
	Verify   *bool             `yaml:"verify" json:"verify,omitempty" doc:"dump: load it into a scratch database beside the database, and compare. Default: true." example:"true"`
	Within   backstay.Duration `yaml:"within" json:"within,omitempty" doc:"restore-point: how long the log may take to be archived. Default: 1m." example:"5m"`
}

func (c config) validate() (problems []backstay.Problem) {
	add := func(key, hint, format string, args ...any) {
		problems = append(problems, backstay.Problem{Path: "snapshot." + key, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if message, hint := session.CheckAddress(c.Database); message != "" {
		add("database", hint, "%s", message)
	}
	switch c.method() {
	case dumpMethod:
		if c.Into == "" {
			add("into", "name the directory for the files", "a dump needs a place")
		}
		if c.Within != 0 {
			add("within", "", "is for restore points; a dump has the step's timeout")
		}
	case pointMethod:
		if c.Into != "" || c.Most != 0 || c.Verify != nil {
			add("method", "leave out into, most and verify", "a restore point is no file")
		}
	default:
		add("method", "dump or restore-point", "%q is no way to take a snapshot", c.Method)
	}
	if c.Most < 0 {
		add("most", "", "%d is less than nothing", c.Most)
	}
	return problems
}

func (c config) method() string {
	if c.Method == "" {
		return dumpMethod
	}
	return c.Method
}

// Prepare checks that the snapshot can be taken.
func (*Kind) Prepare(ctx context.Context, req backstay.Request) (out backstay.Prepared, err error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return out, fmt.Errorf("decode snapshot step: %w", err)
	}
	cfg := sc.Snapshot
	if problems := cfg.validate(); len(problems) > 0 {
		return out, &backstay.RefusedError{What: "spec", Problems: problems}
	}
	if req.Secrets == nil {
		// Only the declaration is checked: there is nothing to reach a database with.
		return backstay.Prepared{Kind: "snapshot"}, nil
	}
	refuse := func(key, hint, format string, args ...any) error {
		return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "snapshot." + key, Message: fmt.Sprintf(format, args...), Hint: hint}}}
	}
	b := body{V: bodyFormat, Address: session.Address(cfg.Database, req.Dir)}
	s, err := session.Open(ctx, req.Secrets, b.Address, "")
	if err != nil {
		return out, refuse("database", backstay.HintOf(err), "%v", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	b.Identity, b.Dialect = s.Identity, s.Dialect.Name()
	if cfg.method() == pointMethod {
		b.Within = orDefault(cfg.Within, defaultWithin)
		if why, hint := archives(ctx, s); why != "" {
			return out, refuse("method", hint, "%s", why)
		}
		return promise(req, b), nil
	}
	b.Into, b.Verify = cfg.Into, cfg.Verify == nil || *cfg.Verify
	if !filepath.IsAbs(b.Into) {
		b.Into = filepath.Join(req.Dir, b.Into)
	}
	if b.Into, err = filepath.EvalSymlinks(b.Into); err != nil {
		return out, refuse("into", "make it first, for nobody else to read", "the directory for the files cannot be opened: %v", errors.Unwrap(err))
	}
	if info, err := os.Stat(b.Into); err != nil || !info.IsDir() {
		return out, refuse("into", "", "%s is no directory", cfg.Into)
	}
	b.Prefix = fileName(req.Release) + "." + fileName(req.ID)
	if program := clients.Missing(clients.Dumpers(b.Dialect, b.Verify)); program != "" {
		return out, refuse("method", "install it here, not older than the server", "%s is not installed", program)
	}
	size, err := sizeOf(ctx, s)
	if err != nil {
		return out, err
	}
	if most := int64(max(cfg.Most, 0)); size>>20 >= orMost(most) {
		return out, refuse("most", "say most: …, or use restore-point with an archive", "the database holds %d MiB: more than a dump is for (%d)", size>>20, orMost(most))
	}
	return promise(req, b), nil
}

func orMost(most int64) int64 {
	if most > 0 {
		return most
	}
	return defaultMost
}

// fileName leaves only what is plain in a file's name.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
}

// promise says what the step is worth.
func promise(req backstay.Request, b body) backstay.Prepared {
	where := b.Dialect + " " + b.Identity.Database
	out := backstay.Prepared{
		Kind: "snapshot", Body: backstay.Canonical(b), Keys: []backstay.Key{keyOf(b)}, Effect: backstay.Idempotent, HasUndo: true, Retries: 1,
		Class: backstay.Exact, Fence: backstay.Leased, Window: defaultWithin,
		Timeout: orDefault(req.Timeout, defaultTimeout), UndoTimeout: orDefault(req.UndoTimeout, defaultTimeout),
		Summary: "dump " + where + " into " + b.Into, UndoSummary: "remove the dump", ReadSummary: "the newest dump in " + b.Into,
	}
	switch {
	case b.Into == "":
		out.Class, out.Modulo = backstay.Equivalent, []string{"the restore point's record in the log", "the table backstay_snapshot"}
		out.Summary, out.UndoSummary, out.ReadSummary = "make a restore point in the log of "+where, "forget it; the log keeps its record", "the newest restore point of "+where
		out.Warnings = []string{"a restore point needs a base backup from before it, and the archive from that on: neither is checked here"}
	case b.Verify:
		out.Summary += ", and load it into a scratch database"
	default:
		out.Warnings = []string{"that the dump can be loaded is not tried (verify: false)"}
	}
	if req.Retries != nil {
		out.Retries = *req.Retries
	}
	if strings.HasPrefix(b.Address, session.SecretPrefix) {
		out.Secrets = []string{b.Address}
	}
	return out
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}
