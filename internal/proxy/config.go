package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// Config is the file that a proxy starts by. Relative paths in it start at its
// directory.
type Config struct {
	Version   string            `yaml:"backstay_proxy"` // "v1"
	Listen    []Listen          `yaml:"listen"`
	Trusted   []string          `yaml:"trusted_proxies"` // networks
	Access    string            `yaml:"access_log"`      // a file, or "-" for stdout; "": none
	Metrics   string            `yaml:"metrics"`         // an address that serves /metrics besides the admin socket
	BackendCA string            `yaml:"backend_ca"`      // PEM: who signs the certificates of https instances
	Drain     backstay.Duration `yaml:"drain"`           // how long SIGTERM waits for requests in flight; 30s
	Limits    Limits            `yaml:"limits"`
	Routes    []wire.Route      `yaml:"routes"`
}

// Listen is one address that the proxy serves at.
type Listen struct {
	Address       string    `yaml:"address"`
	TLS           []KeyPair `yaml:"tls"`
	ProxyProtocol bool      `yaml:"proxy_protocol"` // connections begin with a PROXY header, from trusted proxies only
}

// Limits bound what clients may do to the proxy.
type Limits struct {
	HeaderBytes int               `yaml:"header_bytes"` // of a request; 65536
	HeaderWait  backstay.Duration `yaml:"header_wait"`  // until a request's header is complete; 10s
	Idle        backstay.Duration `yaml:"idle"`         // between two requests of a connection; 2m
	Connections int               `yaml:"connections"`  // of one listener at once; 0: what the system allows
}

const maxConfig = 4 << 20

// ReadConfig reads a file strictly: an unknown key, a key that is there twice
// or a wrong value is a *backstay.RefusedError with all problems.
func ReadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the proxy's configuration: %w", err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("read the proxy's configuration: %s has more than %d bytes", path, maxConfig)
	}
	c := &Config{}
	if err := yaml.Load(data, c, yaml.WithKnownFields()); err != nil {
		return nil, &backstay.RefusedError{What: "configuration", Problems: yamlProblems(path, err), Hint: "docs/guide/proxy.md lists every key"}
	}
	dir := filepath.Dir(path)
	for i := range c.Listen {
		for j := range c.Listen[i].TLS {
			in(dir, &c.Listen[i].TLS[j].Cert)
			in(dir, &c.Listen[i].TLS[j].Key)
		}
	}
	in(dir, &c.BackendCA)
	if c.Access != "-" {
		in(dir, &c.Access)
	}
	if problems := c.problems(path); len(problems) > 0 {
		return nil, &backstay.RefusedError{What: "configuration", Problems: problems, Hint: "docs/guide/proxy.md lists every key"}
	}
	return c.withDefaults(), nil
}

// in puts a relative path below dir.
func in(dir string, path *string) {
	if *path != "" && !filepath.IsAbs(*path) {
		*path = filepath.Join(dir, *path)
	}
}

func (c *Config) withDefaults() *Config {
	const second = backstay.Duration(1e9)
	d := *c
	if d.Drain == 0 {
		d.Drain = 30 * second
	}
	if d.Limits.HeaderBytes == 0 {
		d.Limits.HeaderBytes = 64 << 10
	}
	if d.Limits.HeaderWait == 0 {
		d.Limits.HeaderWait = 10 * second
	}
	if d.Limits.Idle == 0 {
		d.Limits.Idle = 120 * second
	}
	return &d
}

func yamlProblems(path string, err error) (list []backstay.Problem) {
	var several *yaml.LoadErrors
	if errors.As(err, &several) {
		for _, e := range several.Errors {
			list = append(list, backstay.Problem{File: path, Line: e.Mark.Line, Column: e.Mark.Column, Message: e.Message})
		}
	}
	if len(list) == 0 {
		list = []backstay.Problem{{File: path, Message: err.Error()}}
	}
	return list
}

func (c *Config) problems(file string) (list []backstay.Problem) {
	add := func(path, hint, format string, args ...any) {
		list = append(list, backstay.Problem{File: file, Path: path, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	if c.Version != "v1" {
		add("backstay_proxy", "begin the file with: backstay_proxy: v1", "the version is %q", c.Version)
	}
	for i, l := range c.Listen {
		if _, _, err := net.SplitHostPort(l.Address); err != nil {
			add(fmt.Sprintf("listen[%d].address", i), "for example 127.0.0.1:8080", "%q is no address with a port", l.Address)
		}
		if l.ProxyProtocol && len(c.Trusted) == 0 {
			add(fmt.Sprintf("listen[%d].proxy_protocol", i), "list the networks of your load balancers under trusted_proxies", "nobody is trusted to send it")
		}
		for j, p := range l.TLS {
			if p.Cert == "" || p.Key == "" {
				add(fmt.Sprintf("listen[%d].tls[%d]", i, j), "name both files: {cert: shop.pem, key: shop.key}", "cert or key is missing")
			}
		}
	}
	for i, t := range c.Trusted {
		if _, err := netip.ParsePrefix(t); err != nil {
			add(fmt.Sprintf("trusted_proxies[%d]", i), "for example 10.0.0.0/8, or 10.0.0.7/32 for one", "%q is no network", t)
		}
	}
	if n := c.Limits.HeaderBytes; n != 0 && (n < 4<<10 || n > 1<<20) {
		add("limits.header_bytes", "", "%d is not from 4096 to 1048576", n)
	}
	if c.Limits.Connections < 0 {
		add("limits.connections", "0 means what the system allows", "%d is negative", c.Limits.Connections)
	}
	for i, r := range c.Routes {
		for _, p := range r.Validate() {
			p.File, p.Path = file, fmt.Sprintf("routes[%d].%s", i, p.Path)
			list = append(list, p)
		}
		for _, o := range c.Routes[:i] {
			if o.Name == r.Name {
				add(fmt.Sprintf("routes[%d].name", i), "", "%q is there twice", r.Name)
			}
		}
	}
	return list
}

// trusted are the networks of c, which was validated.
func (c *Config) trusted() ([]netip.Prefix, error) {
	list := make([]netip.Prefix, 0, len(c.Trusted))
	for _, t := range c.Trusted {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, fmt.Errorf("read trusted proxies: %w", err)
		}
		list = append(list, p)
	}
	return list, nil
}
