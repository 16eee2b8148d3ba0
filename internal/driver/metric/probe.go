package metric

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

// Probe is the kind of check "probe": one synthetic request. A connection that
// opens (tcp), an answer from 200 to 299 (http, https), or SERVING by gRPC's health
// protocol (grpc, grpcs).
type Probe struct{}

// Initialise is the kind of check "initialise": something critical must become
// ready in time. Until then it is undecided; afterwards it is a probe.
type Initialise struct{ now func() time.Time }

var (
	_ driver.Check = (*Probe)(nil)
	_ driver.Check = (*Initialise)(nil)
)

// Name is "probe".
func (*Probe) Name() string { return "probe" }

// Name is "initialise".
func (*Initialise) Name() string { return "initialise" }

// CheckConfig returns the keys of a check.
func (*Probe) CheckConfig() any { return &probeConfig{} }

// CheckConfig returns the keys of a check.
func (*Initialise) CheckConfig() any { return &initialiseConfig{} }

type probeConfig struct {
	Probe string `yaml:"probe" json:"probe" required:"true" doc:"What to try: tcp://HOST:PORT, http(s)://…, or grpc(s)://HOST:PORT/SERVICE (gRPC's health protocol). {endpoint} is the address of the new side's first instance. For a command, use run." example:"grpc://{endpoint}/shop.Cart"`
}

type initialiseConfig struct {
	Initialise initialiseKeys `yaml:"initialise" json:"initialise" required:"true" doc:"Something critical that must become ready in time." example:"{probe: \"tcp://{endpoint}\", within: 60s}"`
}

type initialiseKeys struct {
	Probe  string            `yaml:"probe" json:"probe" required:"true" doc:"What must answer, as in a probe check." example:"tcp://{endpoint}"`
	Within backstay.Duration `yaml:"within" json:"within" required:"true" doc:"How long it may take from the beginning of the gate. After that it has failed." example:"60s"`
}

// probeBody is the frozen check.
type probeBody struct {
	V      int               `json:"v"`
	Target string            `json:"target"`
	Within backstay.Duration `json:"within,omitzero"`
}

// target checks an address.
func (p *preparer) target(at, target string) string {
	u, err := url.Parse(strings.ReplaceAll(target, "{endpoint}", "127.0.0.1:1"))
	if err != nil {
		p.refuse(at, "is not an address", "such as tcp://127.0.0.1:5432")
		return target
	}
	switch u.Scheme {
	case "tcp", "grpc", "grpcs":
		if u.Port() == "" {
			p.refuse(at, "has no port", "such as "+u.Scheme+"://127.0.0.1:5432")
		}
	case "http", "https":
	default:
		p.refuse(at, fmt.Sprintf("the scheme %q is not tcp, http, https, grpc or grpcs", u.Scheme), "such as tcp://127.0.0.1:5432")
	}
	if u.User != nil {
		p.refuse(at, "holds a user name or password, which would be kept in the plan", "drop it")
	}
	return target
}

// PrepareCheck freezes a check.
func (k *Probe) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c probeConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode probe check: %w", err)
	}
	p := &preparer{req: req}
	b := probeBody{V: bodyFormat, Target: p.target("probe", c.Probe)}
	return p.result(k.Name(), b, "probe "+c.Probe)
}

// PrepareCheck freezes a check.
func (k *Initialise) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c initialiseConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode initialise check: %w", err)
	}
	p := &preparer{req: req}
	b := probeBody{V: bodyFormat, Target: p.target("initialise.probe", c.Initialise.Probe), Within: c.Initialise.Within}
	if b.Within <= 0 {
		p.refuse("initialise.within", "is not above 0", "such as 60s")
	}
	return p.result(k.Name(), b, fmt.Sprintf("%s becomes ready within %s", c.Initialise.Probe, b.Within))
}

// Check probes once.
func (*Probe) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	var b probeBody
	if err := read(call.Step, &b.V, &b); err != nil {
		return backstay.CheckResult{}, err
	}
	return try(ctx, b.Target, call)
}

// Check probes once. What never answered is undecided until its time is over.
func (k *Initialise) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	var b probeBody
	if err := read(call.Step, &b.V, &b); err != nil {
		return backstay.CheckResult{}, err
	}
	if call.Gate == nil {
		return undecided("it can only be asked at a gate"), nil
	}
	res, err := try(ctx, b.Target, call)
	if err != nil {
		return res, err
	}
	var once struct {
		Ready bool      `json:"ready"`
		Since time.Time `json:"since"`
	}
	if json.Unmarshal(call.Gate.State, &once) != nil || once.Since.IsZero() {
		once.Since = call.Gate.Since
	}
	took := k.now().Sub(once.Since)
	switch {
	case res.Verdict == backstay.Pass:
		once.Ready = true
	case once.Ready:
	case took < b.Within.Std():
		res.Verdict, res.Reason = backstay.Undecided, fmt.Sprintf("it is not ready after %s of %s: %s", took.Round(time.Second), b.Within, res.Reason)
	default:
		res.Reason = fmt.Sprintf("it did not become ready within %s: %s", b.Within, res.Reason)
	}
	res.State = backstay.Canonical(once)
	return res, nil
}

// try makes one synthetic request. Its own time being over is a failure, ours is
// not.
func try(ctx context.Context, target string, call backstay.Call) (backstay.CheckResult, error) {
	if strings.Contains(target, "{endpoint}") {
		endpoint := call.Slots["endpoint"]
		if endpoint == "" {
			return undecided("nobody told the address of the new side yet"), nil
		}
		target = strings.ReplaceAll(target, "{endpoint}", endpoint)
	}
	u, err := url.Parse(target)
	if err != nil {
		return backstay.CheckResult{}, fmt.Errorf("read target: %w", err)
	}
	limit := call.Step.Timeout.Std()
	if limit <= 0 {
		limit = askTimeout
	}
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	began := time.Now()
	switch u.Scheme {
	case "tcp":
		err = dial(bounded, u.Host)
	case "grpc", "grpcs":
		err = healthOf(bounded, u)
	default:
		err = get(bounded, target)
	}
	res := backstay.CheckResult{Verdict: backstay.Pass, Samples: 1, Duration: time.Since(began), Reason: "it answered"}
	switch {
	case ctx.Err() != nil:
		return undecided("%v", context.Cause(ctx)), nil
	case bounded.Err() != nil && err != nil:
		res.Verdict, res.Reason = backstay.Fail, context.Cause(bounded).Error()
	case err != nil:
		res.Verdict, res.Reason = backstay.Fail, err.Error()
	}
	return res, nil
}

func dial(ctx context.Context, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err //nolint:wrapcheck // names the address
	}
	return conn.Close() //nolint:wrapcheck // as above
}

// client is one that keeps nothing: a probe is a new connection each time.
func client(plain2 bool) (*http.Client, func()) {
	t := &http.Transport{DisableKeepAlives: !plain2}
	if plain2 {
		t.Protocols = &http.Protocols{}
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP2(true)
	}
	c := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, t.CloseIdleConnections
}

const maxAnswer = 64 << 10

func get(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err //nolint:wrapcheck // says enough
	}
	c, done := client(false)
	defer done()
	resp, err := c.Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}

// Names of the health protocol (grpc/health/v1/health.proto): the request's one
// field is the service, the answer's its status, of which 1 is SERVING.
const (
	fieldService = 1
	fieldStatus  = 1
	serving      = 1
)

// healthOf asks a server of gRPC whether the service in the path is serving. One
// call without compression is a prefix of five bytes and a message of one field.
func healthOf(ctx context.Context, u *url.URL) error {
	message := []byte{}
	if service := strings.TrimPrefix(u.Path, "/"); service != "" {
		message = protowire.AppendTag(message, fieldService, protowire.BytesType)
		message = protowire.AppendString(message, service)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // a name
	scheme := map[string]string{"grpc": "http", "grpcs": "https"}[u.Scheme]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+u.Host+"/grpc.health.v1.Health/Check", bytes.NewReader(append(frame, message...)))
	if err != nil {
		return err //nolint:wrapcheck // says enough
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	c, done := client(true)
	defer done()
	resp, err := c.Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	code := resp.Trailer.Get("Grpc-Status")
	if code == "" {
		code = resp.Header.Get("Grpc-Status") // an answer of trailers only
	}
	if resp.StatusCode != http.StatusOK || code != "0" {
		return fmt.Errorf("the health service answered HTTP %d, gRPC status %q %s", resp.StatusCode, code, resp.Trailer.Get("Grpc-Message")+resp.Header.Get("Grpc-Message"))
	}
	if len(body) < 5 {
		return errors.New("the health service sent no message")
	}
	for rest := body[5:]; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return errors.New("the health service's message cannot be read")
		}
		rest = rest[n:]
		if number == fieldStatus && kind == protowire.VarintType {
			if status, n := protowire.ConsumeVarint(rest); n > 0 && status == serving {
				return nil
			}
		}
		if n = protowire.ConsumeFieldValue(number, kind, rest); n < 0 {
			return errors.New("the health service's message cannot be read")
		}
		rest = rest[n:]
	}
	return errors.New("it is not serving")
}
