package proc

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary act as a supervisor, and as a program that
// runs a script and is then killed.
func TestMain(m *testing.M) {
	if code, supervised := SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	if len(os.Args) == 4 && os.Args[1] == "run-script" {
		_, err := Run(context.Background(), Command{
			Argv: []string{"/bin/sh", "-c", os.Args[2]}, Dir: "/", Token: Token{Deployment: os.Args[3], Step: "s"},
		})
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}
