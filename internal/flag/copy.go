package flag

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/durable"
)

// copyFormat is the first line of a copy; each line after it is one version of
// one flag, and the last one of a key counts.
const copyFormat = "backstay.flags/v1"

// slack is how many outdated lines a copy may have beyond its flags.
const slack = 1000

// copyHead begins a copy.
type copyHead struct {
	Format string `json:"format"`
	Ledger string `json:"ledger"` // ID of the ledger that it is a copy of
}

// localCopy is the durable copy of all flags that a server has beside the ledger.
// It is one process's; methods are for one goroutine.
type localCopy struct {
	path   string
	ledger string
	lock   *durable.FileLock
	file   *os.File
	lines  int
	broken bool // a line may be torn: write the whole anew
}

// openCopy opens (or begins) the copy of a ledger in a directory and reads it.
// The ledger's ID may be "" where the ledger cannot be reached: then whatever is
// there is taken. What the copy of another ledger holds is dropped.
func openCopy(dir, ledgerID string) (*localCopy, []backstay.Flag, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make directory of the flags' copy: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(dir, "flags.lock"))
	var held *durable.HeldError
	if errors.As(err, &held) {
		return nil, nil, &backstay.RefusedError{
			What: "state", Err: fmt.Errorf("another process serves flags from %s: %w", dir, err), Hint: "give this one a directory of its own with --copy",
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("lock the flags' copy: %w", err)
	}
	c := &localCopy{path: filepath.Join(dir, "flags.jsonl"), ledger: ledgerID, lock: lock}
	flags, err := c.read()
	if err != nil {
		return nil, nil, errors.Join(err, lock.Unlock())
	}
	return c, flags, nil
}

// read reads what is there. A torn last line is what a crash left: the change was
// not served.
func (c *localCopy) read() ([]backstay.Flag, error) {
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		c.broken = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the flags' copy: %w", err)
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReaderSize(f, 64<<10)
	var head copyHead
	line, err := r.ReadBytes('\n')
	if err != nil || json.Unmarshal(line, &head) != nil || head.Format != copyFormat {
		return nil, &backstay.RefusedError{
			What: "state", Err: fmt.Errorf("%s is no copy of flags that this version can read", c.path), Hint: "move it away; it is made again from the ledger",
		}
	}
	if c.ledger == "" {
		c.ledger = head.Ledger
	}
	if head.Ledger != c.ledger {
		c.broken = true
		return nil, nil
	}
	last := map[backstay.Key]backstay.Flag{}
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			c.broken = c.broken || len(line) > 0
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the flags' copy: %w", err)
		}
		var flag backstay.Flag
		if err := json.Unmarshal(bytes.TrimSpace(line), &flag); err != nil {
			return nil, &backstay.RefusedError{
				What: "state", Err: fmt.Errorf("%s is damaged: %w", c.path, err), Hint: "move it away; it is made again from the ledger",
			}
		}
		last[flag.Key] = flag
		c.lines++
	}
	out := make([]backstay.Flag, 0, len(last))
	for _, flag := range last {
		out = append(out, flag)
	}
	return out, nil
}

// add makes changes durable. all yields every flag there is, for the times when
// the whole is written anew; it includes the changes.
func (c *localCopy) add(changes []backstay.Flag, live int, all func() ([]backstay.Flag, error)) error {
	if c.broken || c.file == nil && !c.reopen() || c.lines+len(changes) > 2*live+slack {
		flags, err := all()
		if err != nil {
			return err
		}
		return c.rewrite(flags)
	}
	var b bytes.Buffer
	for _, f := range changes {
		b.Write(backstay.Canonical(f))
		b.WriteByte('\n')
	}
	c.broken = true
	if _, err := c.file.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the flags' copy: %w", err)
	}
	if err := durable.SyncOpen(c.file); err != nil {
		return fmt.Errorf("write the flags' copy: %w", err)
	}
	c.broken = false
	c.lines += len(changes)
	return nil
}

func (c *localCopy) reopen() bool {
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return false
	}
	c.file = f
	return true
}

// rewrite puts a whole new copy in the place of the old one.
func (c *localCopy) rewrite(flags []backstay.Flag) error {
	c.closeFile()
	c.broken = true
	r, w := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(w, 256<<10)
		_, _ = b.Write(append(backstay.Canonical(copyHead{copyFormat, c.ledger}), '\n')) // Flush tells
		for _, f := range flags {
			_, _ = b.Write(append(backstay.Canonical(f), '\n')) // Flush tells
		}
		w.CloseWithError(b.Flush())
	}()
	err := durable.WriteFile(c.path, r, durable.Attr{Mode: 0o600})
	_ = r.CloseWithError(err) // ends the writer where the file took not all
	if err != nil {
		return fmt.Errorf("write the flags' copy: %w", err)
	}
	c.broken, c.lines = false, len(flags)
	return nil
}

func (c *localCopy) closeFile() {
	if c.file != nil {
		_ = c.file.Close() // what counts was synced
		c.file = nil
	}
}

func (c *localCopy) close() error {
	c.closeFile()
	return c.lock.Unlock()
}
