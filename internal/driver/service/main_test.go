package service

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/backstay-dev/backstay/internal/proc"
)

// TestMain lets the test binary be a supervisor, and the service under test:
//
//	test-binary serve ADDRESS VERSION BEHAVIOUR MARKER
func TestMain(m *testing.M) {
	if code, supervised := proc.SupervisorMain(os.Args); supervised {
		os.Exit(code)
	}
	if len(os.Args) > 4 && os.Args[1] == "serve" {
		syscall.Exit(serve(os.Args[2], os.Args[3], os.Args[4])) // at once: the race detector makes os.Exit slow
	}
	os.Exit(m.Run())
}

// serve is a small web server that says its version.
func serve(address, version, behaviour string) int {
	switch behaviour {
	case "crash":
		fmt.Println("crashing as told")
		return 3
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case "deaf":
		address = "127.0.0.1:0"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, version) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if behaviour == "sick" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, os.Getenv("TOKEN")) })
	server := http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	if behaviour != "stubborn" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		go func() {
			<-ctx.Done()
			_ = server.Shutdown(context.WithoutCancel(ctx))
		}()
	}
	if err := server.ListenAndServe(); err != nil && err != http.ErrServerClosed { //nolint:errorlint // the server's own
		fmt.Println(err)
		return 1
	}
	return 0
}
