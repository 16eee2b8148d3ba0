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
	"github.com/backstay-dev/backstay/internal/driver/flag"
	"github.com/backstay-dev/backstay/internal/driver/gate"
	"github.com/backstay-dev/backstay/internal/driver/httpcall"
	"github.com/backstay-dev/backstay/internal/driver/metric"
	"github.com/backstay-dev/backstay/internal/driver/migration"
	"github.com/backstay-dev/backstay/internal/driver/migration/backfill"
	"github.com/backstay-dev/backstay/internal/driver/migration/promote"
	"github.com/backstay-dev/backstay/internal/driver/migration/snapshot"
	"github.com/backstay-dev/backstay/internal/driver/service"
	"github.com/backstay-dev/backstay/internal/driver/traffic"
)

// New returns the registry of all kinds.
func New() (*driver.Registry, error) {
	files, err := file.New(time.Now)
	if err != nil {
		return nil, fmt.Errorf("list step kinds: %w", err)
	}
	registry, err := driver.NewRegistry(approve.New(), backfill.New(), command.New(), files, flag.New(time.Now), gate.New(), httpcall.New(), migration.New(), promote.New(), service.New(), snapshot.New(), traffic.New())
	if err != nil {
		return nil, fmt.Errorf("list step kinds: %w", err)
	}
	if err := registry.AddChecks(metric.Kinds(time.Now)...); err != nil {
		return nil, fmt.Errorf("list step kinds: %w", err)
	}
	return registry, nil
}
