package metric

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/metric/datadog"
	"github.com/backstay-dev/backstay/internal/driver/metric/newrelic"
	"github.com/backstay-dev/backstay/internal/driver/metric/program"
	"github.com/backstay-dev/backstay/internal/driver/metric/prometheus"
	"github.com/backstay-dev/backstay/internal/driver/metric/proxystats"
	"github.com/backstay-dev/backstay/internal/driver/metric/signal"
)

// sourceConfig is one entry of sources. Exactly one of the first keys is there.
type sourceConfig struct {
	Proxy      string   `yaml:"proxy" json:"proxy,omitempty" doc:"The admin socket of a Backstay proxy. It counts every request itself: the best source for what it routes." example:"/run/backstay/proxy.sock"`
	Prometheus string   `yaml:"prometheus" json:"prometheus,omitempty" doc:"The URL of a Prometheus, or of what speaks its API (Thanos, Mimir, VictoriaMetrics)." example:"http://127.0.0.1:9090"`
	Datadog    string   `yaml:"datadog" json:"datadog,omitempty" doc:"The URL of a Datadog site's API." example:"https://api.datadoghq.com"`
	NewRelic   string   `yaml:"newrelic" json:"newrelic,omitempty" doc:"The URL of New Relic's NerdGraph." example:"https://api.newrelic.com/graphql"`
	Exec       []string `yaml:"exec" json:"exec,omitempty" doc:"A program and its arguments that answers: it finds the question in BACKSTAY_QUERY and BACKSTAY_QUESTION, or BACKSTAY_ASK, and prints the answer as JSON. Exit status 2 means: no data." example:"[./signals.sh]"`

	Token       string            `yaml:"token" json:"token,omitempty" doc:"The bearer token of prometheus, the API key of datadog, the user key of newrelic: a secret reference." example:"secret:env/PROMETHEUS_TOKEN"`
	Application string            `yaml:"application-token" json:"application-token,omitempty" doc:"datadog: the application key, a secret reference." example:"secret:env/DATADOG_APPLICATION_KEY"`
	Account     int               `yaml:"account" json:"account,omitempty" doc:"newrelic: the number of the account that is asked." example:"1234567"`
	Scrape      backstay.Duration `yaml:"scrape" json:"scrape,omitempty" doc:"prometheus: how often it scrapes. What is silent for three times as long is gone. Default: 15s." example:"5s"`
	Slice       backstay.Duration `yaml:"slice" json:"slice,omitempty" doc:"The length of the slices that comparisons count in. Default: four scrapes of prometheus; 1m for datadog and newrelic." example:"20s"`
	Settle      backstay.Duration `yaml:"settle" json:"settle,omitempty" doc:"datadog, newrelic: how old a slice is before it is read, because some reports come late. Default: 2m." example:"90s"`
	Stratum     string            `yaml:"stratum" json:"stratum,omitempty" doc:"prometheus: a label whose values are compared apart, because the split may differ among them." example:"region"`
	Env         map[string]string `yaml:"env" json:"env,omitempty" doc:"exec: the program's environment. A value may be a secret reference." example:"{API_KEY: \"secret:env/API_KEY\"}"`
}

// source is a frozen entry of sources.
type source struct {
	Name string `json:"name"`
	sourceConfig
	Dir    string `json:"dir,omitempty"`    // of exec
	SHA256 string `json:"sha256,omitempty"` // of the program, where it is a file below Dir
	// Routes are the proxy's own names of routes, where they differ.
	Routes map[string]string `json:"routes,omitempty"`
}

const (
	defaultScrape = backstay.Duration(15 * time.Second)
	// What monitoring services keep is a minute apart, and complete after two.
	serviceSlice  = backstay.Duration(time.Minute)
	serviceSettle = backstay.Duration(2 * time.Minute)
	secretPrefix  = "secret:"
)

// routed is the source of specs that declare none: the proxy on which all their
// routes are.
func (p *preparer) routed() (source, bool) {
	var routes map[string]struct {
		Proxy *struct {
			Socket string `json:"socket"`
			Route  string `json:"route"`
		} `json:"proxy"`
	}
	if raw := p.req.Sections["routes"]; raw == nil || json.Unmarshal(raw, &routes) != nil {
		return source{}, false
	}
	s := source{Name: "the route's proxy", Routes: map[string]string{}}
	for name, r := range routes {
		if r.Proxy == nil || (s.Proxy != "" && s.Proxy != r.Proxy.Socket) {
			return source{}, false
		}
		s.Proxy = r.Proxy.Socket
		if r.Proxy.Route != "" && r.Proxy.Route != name {
			s.Routes[name] = r.Proxy.Route
		}
	}
	if s.Proxy == "" {
		return source{}, false
	}
	p.kindOfSource(&s)
	return s, true
}

// source finds and freezes the source that a check names. Without a name it is
// the only one there is, or the proxy that the routes are on.
func (p *preparer) source(name string) source {
	var all map[string]sourceConfig
	if raw := p.req.Sections["sources"]; raw != nil {
		if err := json.Unmarshal(raw, &all); err != nil {
			p.refuse("source", "the section sources cannot be read: "+err.Error(), "")
			return source{}
		}
	}
	names := slices.Sorted(maps.Keys(all))
	if s, ok := p.routed(); ok && name == "" && len(names) == 0 {
		return s
	}
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	c, ok := all[name]
	switch {
	case name == "" && len(names) == 0:
		p.refuse("source", "there is no source to ask", "declare one: sources: {proxy: {proxy: /run/backstay/proxy.sock}}")
		return source{}
	case name == "":
		p.refuse("source", "it does not say which source to ask", "one of: "+strings.Join(names, ", "))
		return source{}
	case !ok:
		p.refuse("source", fmt.Sprintf("no source is named %q", name), "sources has: "+strings.Join(names, ", "))
		return source{}
	}
	s := source{Name: name, sourceConfig: c}
	p.kindOfSource(&s)
	return s
}

// kindOfSource checks the keys of a source together, and fills in the defaults.
func (p *preparer) kindOfSource(s *source) {
	at := "sources." + s.Name
	kinds := 0
	for _, is := range []bool{s.Proxy != "", s.Prometheus != "", s.Datadog != "", s.NewRelic != "", len(s.Exec) > 0} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		p.refuse("source", at+" has to say exactly one of: proxy, prometheus, datadog, newrelic, exec", "")
		return
	}
	p.belong(at, s)
	switch {
	case s.Proxy != "":
		if !filepath.IsAbs(s.Proxy) {
			s.Proxy = filepath.Join(p.req.Dir, s.Proxy)
		}
	case s.Prometheus != "":
		p.prometheus(at, s)
	case s.Datadog != "" || s.NewRelic != "":
		p.service(at, s)
	default:
		p.exec(at, s)
	}
	for _, v := range append(slices.Collect(maps.Values(s.Env)), s.Token, s.Application) {
		if strings.HasPrefix(v, secretPrefix) {
			p.secret(at, v)
		}
	}
}

func (p *preparer) secret(at, ref string) {
	if p.req.Secrets != nil {
		if _, err := p.req.Secrets.Resolve(ref); err != nil {
			p.refuse("source", fmt.Sprintf("%s: %s does not resolve: %v", at, ref, err), "")
		}
	}
	if !slices.Contains(p.secrets, ref) {
		p.secrets = append(p.secrets, ref)
		slices.Sort(p.secrets)
	}
}

// belong refuses keys that are of another kind of source.
func (p *preparer) belong(at string, s *source) {
	scraped, service := s.Prometheus != "", s.Datadog != "" || s.NewRelic != ""
	for _, key := range []struct {
		name   string
		given  bool
		has    bool
		owners string
	}{
		{"token", s.Token != "", scraped || service, "prometheus, datadog and newrelic"},
		{"application-token", s.Application != "", s.Datadog != "", "datadog"},
		{"account", s.Account != 0, s.NewRelic != "", "newrelic"},
		{"scrape", s.Scrape != 0, scraped, "prometheus"},
		{"slice", s.Slice != 0, scraped || service, "prometheus, datadog and newrelic"},
		{"settle", s.Settle != 0, service, "datadog and newrelic"},
		{"stratum", s.Stratum != "", scraped, "prometheus"},
		{"env", len(s.Env) > 0, len(s.Exec) > 0, "exec"},
	} {
		if key.given && !key.has {
			p.refuse("source", fmt.Sprintf("%s.%s belongs to %s", at, key.name, key.owners), "drop it")
		}
	}
}

// address checks a URL that will be kept in the plan.
func (p *preparer) address(at, given, example string) {
	u, err := url.Parse(given)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		p.refuse("source", at+" is not an http or https URL", "such as "+example)
	case u.User != nil:
		p.refuse("source", at+" holds a user name or password, which would be kept in the plan", "use token: secret:…")
	}
}

// hidden refuses a key that is written out.
func (p *preparer) hidden(at string, given *string, example string) {
	if *given != "" && !strings.HasPrefix(*given, secretPrefix) {
		p.refuse("source", at+" is written out, and would be kept in the plan", "use a secret reference: secret:env/"+example)
		*given = ""
	}
}

// service fills in what is asked of Datadog and New Relic.
func (p *preparer) service(at string, s *source) {
	p.hidden(at+".token", &s.Token, "API_KEY")
	p.hidden(at+".application-token", &s.Application, "APPLICATION_KEY")
	if s.Datadog != "" {
		p.address(at+".datadog", s.Datadog, "https://api.datadoghq.com")
	} else {
		p.address(at+".newrelic", s.NewRelic, "https://api.newrelic.com/graphql")
	}
	switch {
	case len(p.problems) > 0:
	case s.Token == "":
		p.refuse("source", at+".token is missing", "token: secret:env/API_KEY")
	case s.Datadog != "" && s.Application == "":
		p.refuse("source", at+".application-token is missing: Datadog asks for both keys", "application-token: secret:env/APPLICATION_KEY")
	case s.NewRelic != "" && s.Account <= 0:
		p.refuse("source", at+".account is missing", "the number of the account, as New Relic shows it")
	}
	if s.Slice == 0 {
		s.Slice = serviceSlice
	}
	if s.Settle == 0 {
		s.Settle = serviceSettle
	}
	if s.Slice < backstay.Duration(time.Second) || s.Slice.Std()%time.Second != 0 || s.Settle < 0 {
		p.refuse("source", at+".slice is not of whole seconds, or settle is below 0", "slice: 1m, settle: 2m")
	}
}

func (p *preparer) prometheus(at string, s *source) {
	p.address(at+".prometheus", s.Prometheus, "http://127.0.0.1:9090")
	p.hidden(at+".token", &s.Token, "PROMETHEUS_TOKEN")
	if s.Scrape == 0 {
		s.Scrape = defaultScrape
	}
	if s.Slice == 0 {
		s.Slice = 4 * s.Scrape
	}
	if s.Scrape < 0 || s.Slice < s.Scrape {
		p.refuse("source", at+".slice is shorter than a scrape", "four scrapes are good")
	}
}

// exec freezes the program: where it lies and what is in it.
func (p *preparer) exec(at string, s *source) {
	s.Dir = p.req.Dir
	if !strings.Contains(s.Exec[0], "/") {
		return // found in PATH when it runs
	}
	path := s.Exec[0]
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.Dir, path)
	}
	sum, err := digest(path)
	if err != nil {
		p.refuse("source", at+".exec cannot be read: "+err.Error(), "")
		return
	}
	s.Exec = append([]string{path}, s.Exec[1:]...)
	s.SHA256 = sum
}

func digest(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read program: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// opener makes sources from what plans froze, and keeps one breaker for each: a
// source that failed five times in a row is left alone for ten seconds.
type opener struct {
	now func() time.Time

	mu       sync.Mutex
	breakers map[string]circuitbreaker.CircuitBreaker[any]
}

const (
	breakerFailures = 5
	breakerDelay    = 10 * time.Second
)

func newOpener(now func() time.Time) *opener {
	return &opener{now: now, breakers: map[string]circuitbreaker.CircuitBreaker[any]{}}
}

func (o *opener) breaker(key string) circuitbreaker.CircuitBreaker[any] {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.breakers[key]
	if b == nil {
		b = circuitbreaker.NewBuilder[any]().WithFailureThreshold(breakerFailures).WithDelay(breakerDelay).WithSuccessThreshold(1).Build()
		o.breakers[key] = b
	}
	return b
}

// guarded is a source behind its breaker.
type guarded struct {
	name    string
	next    signal.Source
	breaker circuitbreaker.CircuitBreaker[any]
}

var _ signal.Source = (*guarded)(nil)

func (g *guarded) run(ask func() error) error {
	if !g.breaker.TryAcquirePermit() {
		return &backstay.Error{
			Class: backstay.Transient, Op: "ask source", Subject: g.name,
			Err: fmt.Errorf("it failed %d times in a row and is left alone for %s", breakerFailures, g.breaker.RemainingDelay().Round(time.Second)),
		}
	}
	err := ask()
	var none *signal.NoData
	if err == nil || errors.As(err, &none) {
		g.breaker.RecordSuccess()
	} else {
		g.breaker.RecordFailure()
	}
	return err
}

// Read asks the source, unless it is left alone.
func (g *guarded) Read(ctx context.Context, q signal.Question) (r signal.Reading, err error) {
	err = g.run(func() error { r, err = g.next.Read(ctx, q); return err })
	return r, err
}

// Signals asks the source, unless it is left alone.
func (g *guarded) Signals(ctx context.Context, ask signal.Ask) (b signal.Batch, err error) {
	err = g.run(func() error { b, err = g.next.Signals(ctx, ask); return err })
	return b, err
}

// open makes the frozen source; secrets are resolved now.
func (o *opener) open(s source, secrets backstay.Secrets) (signal.Source, error) {
	next, err := o.bare(s, secrets)
	if err != nil {
		return nil, err
	}
	return &guarded{name: s.Name, next: next, breaker: o.breaker(backstay.DigestJSON(s))}, nil
}

func (o *opener) bare(s source, secrets backstay.Secrets) (signal.Source, error) {
	resolve := func(v string) (string, error) {
		if !strings.HasPrefix(v, secretPrefix) {
			return v, nil
		}
		if secrets == nil {
			return "", fmt.Errorf("resolve %s: no secrets are given here", v)
		}
		return secrets.Resolve(v) //nolint:wrapcheck // names the reference
	}
	token, err := resolve(s.Token)
	if err != nil {
		return nil, err
	}
	application, err := resolve(s.Application)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Proxy != "":
		return proxystats.New(s.Proxy, s.Routes), nil
	case s.Datadog != "":
		return datadog.New(datadog.Options{ //nolint:wrapcheck // says enough
			URL: s.Datadog, Key: token, Application: application, Slice: s.Slice.Std(), Settle: s.Settle.Std(), Now: o.now,
		})
	case s.NewRelic != "":
		return newrelic.New(newrelic.Options{ //nolint:wrapcheck // says enough
			URL: s.NewRelic, Account: s.Account, Key: token, Slice: s.Slice.Std(), Settle: s.Settle.Std(), Now: o.now,
		})
	case s.Prometheus != "":
		return prometheus.New(prometheus.Options{ //nolint:wrapcheck // says enough
			URL: s.Prometheus, Token: token, Scrape: s.Scrape.Std(), Slice: s.Slice.Std(), Stratum: s.Stratum, Now: o.now,
		})
	}
	if s.SHA256 != "" {
		if sum, err := digest(s.Exec[0]); err != nil || sum != s.SHA256 {
			return nil, &backstay.Error{
				Class: backstay.Permanent, Op: "run source", Subject: s.Exec[0],
				Err: errors.New("the program is not the one that was planned"), Hint: "make the plan again",
			}
		}
	}
	env := map[string]string{}
	for name, v := range s.Env {
		value, err := resolve(v)
		if err != nil {
			return nil, err
		}
		env[name] = value
	}
	return &program.Source{Argv: s.Exec, Dir: s.Dir, Env: env, Now: o.now}, nil
}
