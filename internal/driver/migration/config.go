package migration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

const (
	defaultLock      = backstay.Duration(5e9)
	defaultStatement = backstay.Duration(300e9)
	defaultTimeout   = backstay.Duration(1800e9)

	checkRows = "rows"
)

// stepConfig are the keys of a migrate step.
type stepConfig struct {
	Migrate config `yaml:"migrate" json:"migrate" required:"true" doc:"The database and the directory of its migrations." example:"{database: \"secret:env/DATABASE_URL\", dir: migrations}"`
}

type config struct {
	Database string `yaml:"database" json:"database" required:"true" doc:"The URL of the database, as a reference to a secret: postgres://…, mysql://… (or mariadb://…), sqlite:/path. Only a SQLite path may be written here itself." example:"secret:env/DATABASE_URL"`
	Dir      string `yaml:"dir" json:"dir" required:"true" doc:"The directory that holds the migration files, relative to the spec." example:"migrations"`
	Format   string `yaml:"format" json:"format,omitempty" enum:"goose,golang-migrate,flyway,dbmate" doc:"Which tool's files they are. Default: found out from names and marks." example:"goose"`
	Table    string `yaml:"table" json:"table,omitempty" doc:"The tool's version table, where it is not the tool's usual one." example:"app_migrations"`
	To       string `yaml:"to" json:"to,omitempty" doc:"The newest version to apply. Default: all." example:"\"20240131\""`

	LockTimeout      backstay.Duration `yaml:"lock-timeout" json:"lock-timeout,omitempty" doc:"How long a statement waits for others' locks before it gives up. Whoever comes later waits behind it. Default: 5s." example:"2s"`
	StatementTimeout backstay.Duration `yaml:"statement-timeout" json:"statement-timeout,omitempty" doc:"How long one statement may run. Default: 5m." example:"10m"`

	Allow        []string          `yaml:"allow" json:"allow,omitempty" doc:"Rules whose destructive or opaque statements may run. With a destructive one the step is the point of no return, and waits for an approval." example:"[drop-column]"`
	Irreversible string            `yaml:"irreversible" json:"irreversible,omitempty" doc:"Why this cannot be undone, where a migration has no down. Such a step waits for an approval and is the point of no return." example:"the old rows are of no use"`
	Check        string            `yaml:"check" json:"check,omitempty" enum:"rows" doc:"rows: count the rows of the tables that the pending migrations name, with a checksum of what they hold, before the step, after it and at its undo. Differences are reported and hold nothing. Each reading reads each of these tables whole." example:"rows"`
	Snapshot     snapshot          `yaml:"snapshot" json:"snapshot,omitzero" doc:"What is kept of the data before a destructive statement. table: each table that such a statement names is copied into a table backstay_before_… right before its migration, in the same transaction where there is one. {database: DIR}: the plan puts a snapshot step in front, which dumps the whole database into that directory." example:"table"`
	Compatible   map[string]string `yaml:"compatible" json:"compatible,omitempty" doc:"By release, the range of its versions that can use the schema as it is after this step. A deployment or rollback that would leave another version on it is refused, and so is this step while another version is live. Releases that are not named may have any version." example:"{shop: \">= 2, < 4\"}"`
	Keep         bool              `yaml:"keep" json:"keep,omitempty" doc:"Before an undo drops a table or column that holds values written since, copy them into a table named backstay_kept_…; they come back when the migration is applied again. Without it such an undo is refused." example:"true"`
}

// snapshot is what is kept of the data before a destructive statement: of the
// tables in the database itself, or of the whole database in a directory. The
// plan makes a snapshot step of the second.
type snapshot struct {
	Table bool
	Keys  *snapshotKeys
}

type snapshotKeys struct {
	Database string `yaml:"database" json:"database" required:"true" doc:"The directory for the dump, as a snapshot step has it in into." example:"/var/backups/shop"`
	Most     int    `yaml:"most" json:"most,omitempty" doc:"How many MiB the database may hold at most. Default: 1024." example:"4096"`
	Verify   *bool  `yaml:"verify" json:"verify,omitempty" doc:"Load the dump into a scratch database beside the database, and compare. Default: true." example:"true"`
}

// SpecShape says that it is written in two ways.
func (snapshot) SpecShape() []string { return []string{"string", "mapping"} }

// SpecFields describes the long form.
func (snapshot) SpecFields() any { return &snapshotKeys{} }

// IsZero says that nothing is kept.
func (s snapshot) IsZero() bool { return !s.Table && s.Keys == nil }

const snapshotTable = "table"

// UnmarshalJSON reads both forms.
func (s *snapshot) UnmarshalJSON(data []byte) error {
	*s = snapshot{}
	if len(data) > 0 && data[0] == '{' {
		s.Keys = &snapshotKeys{}
		return json.Unmarshal(data, s.Keys) //nolint:wrapcheck // says enough
	}
	var word string
	if err := json.Unmarshal(data, &word); err != nil || word != snapshotTable {
		return errors.New("is neither `table` nor `{database: DIR}`, the directory for a dump")
	}
	s.Table = true
	return nil
}

// MarshalJSON writes the form that was read.
func (s snapshot) MarshalJSON() ([]byte, error) {
	if s.Table {
		return json.Marshal(snapshotTable) //nolint:wrapcheck // a word
	}
	return json.Marshal(s.Keys) //nolint:wrapcheck // plain values
}

// validate checks what can be checked without files and databases.
func (c config) validate() (problems []backstay.Problem) {
	add := func(key, hint, format string, args ...any) {
		problems = append(problems, backstay.Problem{Path: "migrate." + key, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if message, hint := session.CheckAddress(c.Database); message != "" {
		add("database", hint, "%s", message)
	}
	if c.Dir == "" {
		add("dir", "", "names no directory")
	}
	if c.Format != "" && !slices.Contains(files.Conventions(), files.Convention(c.Format)) {
		add("format", "goose, golang-migrate, flyway or dbmate", "%q is not a convention for migration files", c.Format)
	}
	if strings.ContainsAny(c.Table, "\x00\"`;") {
		add("table", "such as public.schema_migrations", "%q is not the name of a table", c.Table)
	}
	for i, rule := range c.Allow {
		if !slices.ContainsFunc(sqltext.Rules(), func(r sqltext.Rule) bool { return r.Name == rule }) {
			var known []string
			for _, r := range sqltext.Rules() {
				known = append(known, r.Name)
			}
			add(fmt.Sprintf("allow[%d]", i), "one of "+strings.Join(known, ", "), "there is no rule %q that needs to be allowed", rule)
		}
	}
	if c.Check != "" && c.Check != checkRows {
		add("check", checkRows, "%q is nothing that can be checked", c.Check)
	}
	for _, release := range slices.Sorted(maps.Keys(c.Compatible)) {
		if _, err := semver.NewConstraint(c.Compatible[release]); err != nil || strings.TrimSpace(c.Compatible[release]) == "" {
			add("compatible."+release, `such as ">= 2, < 4", "^2.1" or "*"`, "%q is not a range of versions", c.Compatible[release])
		}
	}
	if c.Irreversible != "" && strings.TrimSpace(c.Irreversible) == "" {
		add("irreversible", "say why it cannot be undone: people approve it by that", "the reason is blank")
	}
	return problems
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}
