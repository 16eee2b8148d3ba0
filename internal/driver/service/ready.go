package service

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proc"
)

const (
	readyEvery   = 50 * time.Millisecond
	probeTimeout = 5 * time.Second // of one question
	maxProbeBody = 64 << 10
)

// awaitReady waits until the instance is ready. It fails at once when the
// process ends.
func (l launcher) awaitReady(ctx context.Context, p *proc.Detached, inst instance, expand *strings.Replacer, c proc.Command) error {
	within := l.definition.Ready.Within.Std()
	limited, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	// A question to a process that ends meanwhile is given up.
	asking, giveUp := context.WithCancel(limited)
	defer giveUp()
	go func() {
		defer giveUp()
		select {
		case <-p.Done():
		case <-asking.Done():
		}
	}()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	var last error
	for {
		err := l.ask(asking, inst, expand, c)
		if err == nil && p.Alive() {
			return nil
		}
		if err != nil && asking.Err() == nil {
			last = err
		}
		select {
		case <-p.Done():
			if l.definition.usesPort() && portTaken(inst.Port) {
				return errPortTaken
			}
			return &backstay.Error{
				Class: backstay.Permanent, Op: "start service", Subject: l.definition.Name,
				Err:  fmt.Errorf("instance %d %s before it was ready", inst.Index, p.Exit()),
				Hint: "see " + inst.Log,
			}
		case <-limited.Done():
			if ctx.Err() != nil {
				return fmt.Errorf("start service %s: %w", l.definition.Name, ending(ctx))
			}
			return &backstay.Error{
				Class: backstay.Permanent, Op: "start service", Subject: l.definition.Name,
				Err:  fmt.Errorf("instance %d is not ready within %s (%w)", inst.Index, within, orNothing(last)),
				Hint: "see " + inst.Log,
			}
		case <-tick.C:
		}
	}
}

func orNothing(err error) error {
	if err == nil {
		return fmt.Errorf("it did not answer")
	}
	return err
}

// ask asks once; nil means ready.
func (l launcher) ask(ctx context.Context, inst instance, expand *strings.Replacer, c proc.Command) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	switch r := l.definition.Ready; {
	case r.HTTP != "":
		return askHTTP(ctx, "http://"+address(inst.Port)+r.HTTP)
	case r.TCP:
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp4", address(inst.Port))
		if err != nil {
			return err //nolint:wrapcheck // says what it did
		}
		_ = conn.Close()
		return nil
	default:
		c.Argv, c.Run, c.Grace = nil, "", 100*time.Millisecond
		for _, a := range r.Run {
			c.Argv = append(c.Argv, expand.Replace(a))
		}
		exit, err := proc.Run(ctx, c)
		if err == nil && !exit.OK() {
			err = fmt.Errorf("the ready command %s", exit)
		}
		return err
	}
}

// askHTTP wants a status from 200 to 299. No proxy, no redirect, no second use
// of the connection.
func askHTTP(ctx context.Context, url string) error {
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxProbeBody},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("ask whether it is ready: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask whether it is ready: %w", err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProbeBody))
	_ = resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("it answered with status %d", resp.StatusCode)
	}
	return err
}
