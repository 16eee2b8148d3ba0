package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// helperRole is set where the test binary plays the proxy process.
func helperRole() string { return os.Getenv("BACKSTAY_PROXY_HELPER") }

// helperProxy is a proxy process: configuration file and state directory are
// its arguments. As "proxy-dies" it ends itself between state and swap.
func helperProxy() {
	c, err := ReadConfig(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := RunOptions{
		State: os.Args[2], Stdout: os.Stdout, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Serving: func(addresses []string) { fmt.Println(addresses[0]) },
	}
	if helperRole() == "proxy-dies" {
		o.Saved = func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
	}
	if err := Run(ctx, c, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
