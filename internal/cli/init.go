package cli

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/backstay-dev/backstay"
)

// starters returns the files that init writes, by their path below the directory.
func starters() ([]starter, error) {
	var out []starter
	for _, name := range []string{defaultFile, filepath.Join("environments", "production.yaml")} {
		data, err := starterFiles.ReadFile("starter/" + filepath.ToSlash(name))
		if err != nil {
			return nil, fmt.Errorf("read the starter file: %w", err)
		}
		out = append(out, starter{name, data})
	}
	return out, nil
}

type starter struct {
	name string
	data []byte
}

//go:embed starter
var starterFiles embed.FS

func (c *call) initCommand() *cobra.Command {
	return c.command("init [DIR]", "Write a commented first backstay.yaml",
		"Writes backstay.yaml and environments/production.yaml, with comments that say what each part is\nfor. A file that is there already is never overwritten.",
		cobra.MaximumNArgs(1), func(_ context.Context, c *call, args []string) error { return c.init(append(args, ".")[0]) })
}

// initDocument is the result of init.
type initDocument struct {
	Format string   `json:"format"`
	Files  []string `json:"files"`
}

func (c *call) init(dir string) error {
	files, err := starters()
	if err != nil {
		return err
	}
	doc := initDocument{Format: c.format()}
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(dir, f.name)); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return &backstay.RefusedError{
				What: "init", Err: fmt.Errorf("%s is there already", filepath.Join(dir, f.name)), Hint: "move it away, or give another directory: backstay init DIR",
			}
		}
	}
	for _, f := range files {
		name := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writeNew(name, f.data); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		doc.Files = append(doc.Files, name)
	}
	if c.json {
		return c.out.document(doc)
	}
	for _, name := range doc.Files {
		c.out.line("wrote %s", name)
	}
	c.out.line("next: backstay lint && backstay plan && backstay deploy   (with -f where it is not in this directory)")
	return nil
}

// writeNew creates a file that must not exist.
func writeNew(name string, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.Write(data)
	return err
}
