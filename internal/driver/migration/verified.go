package migration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/files"
	"github.com/backstay-dev/backstay/internal/durable"
)

const (
	verifiedFile   = "migrate-verified.json"
	verifiedFormat = "backstay.migrate-verified/v1"
)

// verified is what verify showed, by the files that it was shown of: a verdict
// says nothing of other contents.
type verified struct {
	Format   string             `json:"format"`
	Verdicts map[string]verdict `json:"verdicts"`
}

type verdict struct {
	Result backstay.VerifiedResult `json:"result"`
	Reason string                  `json:"reason,omitempty"`
	At     time.Time               `json:"at"`
}

// fingerprint names one migration's files. down is empty where there is none.
func fingerprint(dialect string, c files.Convention, version, up, down string) string {
	return backstay.DigestJSON([]string{dialect, string(c), version, up, down})
}

func readVerified(dataDir string) (verified, error) {
	v := verified{Format: verifiedFormat, Verdicts: map[string]verdict{}}
	text, err := os.ReadFile(filepath.Join(dataDir, verifiedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err == nil && v.Format != verifiedFormat {
		err = fmt.Errorf("its format is %q, not %s", v.Format, verifiedFormat)
	}
	if err != nil {
		return v, fmt.Errorf("read %s: %w", filepath.Join(dataDir, verifiedFile), err)
	}
	return v, nil
}

// remember keeps what verify showed, for the plans to come. Without a data
// directory nothing is kept.
func remember(dataDir string, set files.Set, out backstay.Verification) error {
	if dataDir == "" {
		return nil
	}
	v, err := readVerified(dataDir)
	if err != nil {
		return err
	}
	for i, m := range out.Migrations {
		down := ""
		if d := set.Migrations[i].Down; d != nil && !d.Empty() {
			down = d.SHA256
		}
		v.Verdicts[fingerprint(out.Database, set.Convention, m.Version, set.Migrations[i].Up.SHA256, down)] = verdict{Result: m.Result, Reason: m.Reason, At: time.Now().UTC()}
	}
	if err := durable.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("keep what was verified: %w", err)
	}
	text := string(backstay.Canonical(v)) + "\n"
	if err := durable.WriteFile(filepath.Join(dataDir, verifiedFile), strings.NewReader(text), durable.Attr{Mode: 0o600}); err != nil {
		return fmt.Errorf("keep what was verified: %w", err)
	}
	return nil
}

// Verified says in a line what the last verify on this host showed of exactly the
// files that a step will apply; empty where it will apply none.
func (*Kind) Verified(step backstay.Step, dataDir string) (string, error) {
	b, err := decode(step)
	if err != nil || len(b.Pending) == 0 {
		return "", err
	}
	v, err := readVerified(dataDir)
	if err != nil {
		return "", err
	}
	var restored, unknown int
	var oldest time.Time
	var bad []string
	for _, c := range b.Pending {
		down := ""
		if c.Down != nil {
			down = c.Down.SHA256
		}
		found, tried := v.Verdicts[fingerprint(b.Dialect, files.Convention(b.Convention), c.Version, c.Up.SHA256, down)]
		switch {
		case !tried || found.Result == backstay.VerifiedNotRun:
			unknown++
			continue
		case found.Result == backstay.VerifiedRestores:
			restored++
		default:
			bad = append(bad, c.Up.File+" ("+strings.TrimSpace(strings.ReplaceAll(string(found.Result), "_", " ")+": "+found.Reason)+")")
		}
		if oldest.IsZero() || found.At.Before(oldest) {
			oldest = found.At
		}
	}
	if unknown == len(b.Pending) {
		return "whether the downs restore the schema was not tried with these files: run `backstay migrate verify`", nil
	}
	text := fmt.Sprintf("verified at %s: the downs of %d of %s restore the schema", oldest.Format(time.DateTime), restored, count(len(b.Pending), "migration"))
	if len(bad) > 0 {
		text += "; not " + list(bad)
	}
	if unknown > 0 {
		text += fmt.Sprintf("; %d not tried with these files", unknown)
	}
	return text, nil
}
