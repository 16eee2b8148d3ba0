package command

import (
	"os"
	"testing"

	"github.com/backstay-dev/backstay/internal/proc"
)

func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	os.Exit(m.Run())
}
