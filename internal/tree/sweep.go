package tree

import (
	"errors"
	"path/filepath"

	"github.com/backstay-dev/backstay/internal/durable"
)

// Sweep removes the temporary files that a killed process left of writing the
// named parts of path. One that a living process holds is a Transient error.
func Sweep(p string, parts []string) error {
	r := &restorer{path: p}
	var errs []error
	for _, part := range parts {
		err := r.in(part, func(dir *durable.Dir, name string) error { return dir.Sweep(name) })
		if err == nil || gone(err) {
			continue
		}
		errs = append(errs, classify("sweep", filepath.Join(p, part), err))
	}
	return errors.Join(errs...)
}
