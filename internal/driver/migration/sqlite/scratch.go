package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Scratch makes an empty file in a directory of its own.
func (Dialect) Scratch(context.Context, string) (string, func(context.Context) error, error) {
	dir, err := os.MkdirTemp("", "backstay-scratch-")
	if err != nil {
		return "", nil, fmt.Errorf("make a scratch database: %w", err)
	}
	remove := func(context.Context) error { return os.RemoveAll(dir) }
	path := filepath.Join(dir, "scratch.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", nil, fmt.Errorf("make a scratch database: %w", err)
	}
	return "sqlite:" + path, remove, nil
}
