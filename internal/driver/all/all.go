// Package all is the explicit list of step kinds that this binary has. Only the
// main program and the simulator import it; nothing registers itself.
package all

import (
	"fmt"
	"time"

	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/approve"
	"github.com/backstay-dev/backstay/internal/driver/command"
	"github.com/backstay-dev/backstay/internal/driver/file"
	"github.com/backstay-dev/backstay/internal/driver/httpcall"
	"github.com/backstay-dev/backstay/internal/driver/service"
)

// New returns the registry of all kinds.
func New() (*driver.Registry, error) {
	files, err := file.New(time.Now)
	if err != nil {
		return nil, fmt.Errorf("list step kinds: %w", err)
	}
	registry, err := driver.NewRegistry(approve.New(), command.New(), files, httpcall.New(), service.New())
	if err != nil {
		return nil, fmt.Errorf("list step kinds: %w", err)
	}
	return registry, nil
}
