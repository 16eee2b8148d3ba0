package metric

import (
	"time"

	"github.com/backstay-dev/backstay/internal/driver"
)

// Kinds returns the kinds of check of this package. They share one breaker for
// each source.
func Kinds(now func() time.Time) []driver.Check {
	open := newOpener(now)
	return []driver.Check{&Burn{open}, &Compare{open}, &Initialise{now}, &Probe{}, &Query{open}}
}
