package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/database"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
	"github.com/backstay-dev/backstay/internal/durable"
)

const manifestFormat = "backstay.snapshot/v1"

// dump is a snapshot in a file. Beside it lies its manifest, which is written
// last: without one there is no snapshot.
type dump struct {
	body
	call       backstay.Call
	deployment string
}

var _ method = (*dump)(nil)

// manifest says what a dump holds. Deployments are numbered by time, and so are
// the names of their files.
type manifest struct {
	Format     string            `json:"format"`
	Deployment string            `json:"deployment"`
	Taken      time.Time         `json:"taken"`
	Dialect    string            `json:"dialect"`
	Database   database.Identity `json:"database"`
	File       string            `json:"file"`
	Size       int64             `json:"size"`
	SHA256     string            `json:"sha256"`
	// Of the scratch database that it was loaded into.
	Verified bool             `json:"verified"`
	Schema   string           `json:"schema,omitempty"` // digest
	Rows     map[string]int64 `json:"rows,omitempty"`   // by table
}

// file is what the ledger holds of a dump.
type file struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (d *dump) base() string { return filepath.Join(d.Into, d.Prefix+"."+fileName(d.deployment)) }

func (d *dump) close() error { return nil }

func (d *dump) newest(context.Context) (any, error) {
	entries, err := os.ReadDir(d.Into)
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	for _, e := range slices.Backward(entries) { // by name
		if !strings.HasPrefix(e.Name(), d.Prefix+".") || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		m, err := read(filepath.Join(d.Into, e.Name()))
		if err != nil {
			return nil, err
		}
		return file{File: m.File, Size: m.Size, SHA256: m.SHA256}, nil
	}
	return nil, nil //nolint:nilnil // there is none
}

func read(path string) (manifest, error) {
	var m manifest
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && m.Format != manifestFormat {
		err = fmt.Errorf("its format is %q, not %s", m.Format, manifestFormat)
	}
	if err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	return m, nil
}

func (d *dump) taken(context.Context) (bool, error) {
	m, err := read(d.base() + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && m.Deployment == d.deployment, err
}

// take writes the dump aside, proves it, and gives it its name.
func (d *dump) take(ctx context.Context) (note string, err error) {
	url, err := session.URL(d.call.Secrets, d.Address)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	s, err := session.Reach(ctx, d.call.Secrets, d.Address, "", d.Identity)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := d.remove(ctx); err != nil {
		return "", err
	}
	part := d.base() + ".part"
	defer func() {
		if _, lapsed := backstay.LeaseLeft(context.WithoutCancel(ctx)); err != nil && lapsed == nil { // else it may be another's
			err = errors.Join(err, durable.RemoveAll(part)) // it holds rows
		}
	}()
	if err := private(part); err != nil {
		return "", err
	}
	m := manifest{Format: manifestFormat, Deployment: d.deployment, Dialect: d.Dialect, Database: d.Identity, File: d.base() + ".dump", Taken: time.Now().UTC()}
	before, err := s.Dialect.Schema(ctx, s.Conn)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	c := copier{dump: d, s: s, url: url, part: part}
	if err := c.write(ctx); err != nil {
		return "", err
	}
	after, err := s.Dialect.Schema(ctx, s.Conn)
	if err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	if before.Digest() != after.Digest() {
		return "", &backstay.Error{Class: backstay.Transient, Op: "dump the database", Err: errors.New("somebody changed the schema meanwhile")}
	}
	if d.Verify {
		if m.Rows, err = c.prove(ctx, before); err != nil {
			return "", err
		}
		m.Verified, m.Schema = true, before.Digest()
	}
	if m.SHA256, m.Size, err = digest(part); err != nil {
		return "", err
	}
	if err := durable.SyncTree(part); err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return "", fmt.Errorf("give the dump its name: %w", err)
	}
	if err := durable.Rename(part, m.File); err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	text := append(backstay.Canonical(m), '\n')
	if err := durable.WriteFile(d.base()+".json", strings.NewReader(string(text)), durable.Attr{Mode: 0o600}); err != nil {
		return "", err //nolint:wrapcheck // says what it did
	}
	return m.String(), nil
}

func (m manifest) String() string {
	text := fmt.Sprintf("%s: %d bytes, SHA-256 %s", m.File, m.Size, m.SHA256[:12])
	if m.Verified {
		var rows int64
		for n := range maps.Values(m.Rows) {
			rows += n
		}
		text += fmt.Sprintf(", loaded again with %d rows in %d tables", rows, len(m.Rows))
	}
	return text
}

// private makes an empty file for nobody else to read.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("make the dump: %w", err)
	}
	return nil
}

// remove removes this deployment's dump, whole or not.
func (d *dump) remove(ctx context.Context) (note string, err error) {
	if _, err := backstay.LeaseLeft(ctx); err != nil {
		return "", fmt.Errorf("remove the dump: %w", err)
	}
	for _, end := range []string{".json", ".dump", ".part"} {
		if err := durable.RemoveAll(d.base() + end); err != nil {
			return "", err //nolint:wrapcheck // says what it did
		}
	}
	return "", nil
}

func digest(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, fmt.Errorf("read the dump: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	if size, err = io.Copy(hash, f); err != nil {
		return "", 0, fmt.Errorf("read the dump: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}
