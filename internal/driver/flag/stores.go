package flag

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/flag/flagd"
	"github.com/backstay-dev/backstay/internal/driver/flag/launchdarkly"
	"github.com/backstay-dev/backstay/internal/driver/flag/store"
	"github.com/backstay-dev/backstay/internal/driver/flag/unleash"
)

// section is the top-level key of the spec that declares other stores.
const section = "stores"

// storeConfig is one entry of stores. Exactly one of the first keys is there.
type storeConfig struct {
	Flagd        string `yaml:"flagd" json:"flagd,omitempty" doc:"A file of flagd's format, in JSON: absolute, or relative to the spec's directory." example:"/etc/flagd/flags.json"`
	LaunchDarkly string `yaml:"launchdarkly" json:"launchdarkly,omitempty" doc:"The URL of LaunchDarkly's REST API." example:"https://app.launchdarkly.com"`
	Unleash      string `yaml:"unleash" json:"unleash,omitempty" doc:"The URL of an Unleash server." example:"https://unleash.example.com"`
	OFREP        string `yaml:"ofrep" json:"ofrep,omitempty" doc:"The URL of a server that speaks the OpenFeature Remote Evaluation Protocol. It is only read, by flag checks." example:"http://127.0.0.1:8016"`

	Token       string `yaml:"token" json:"token,omitempty" doc:"launchdarkly, unleash, ofrep: the access token, a secret reference." example:"secret:env/FLAGS_TOKEN"`
	Project     string `yaml:"project" json:"project,omitempty" doc:"launchdarkly, unleash: the project. Default: default." example:"shop"`
	Environment string `yaml:"environment" json:"environment,omitempty" doc:"launchdarkly, unleash: the environment." example:"production"`
}

// storesOf decodes the section.
func storesOf(req backstay.Request) (map[string]storeConfig, error) {
	all := map[string]storeConfig{}
	if raw := req.Sections[section]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, fmt.Errorf("decode stores: %w", err)
		}
	}
	return all, nil
}

// storeOf finds the store that a step or check names, checked, with its defaults
// filled in and its path made absolute: as a plan freezes it.
func storeOf(req backstay.Request, name string) (storeConfig, error) {
	all, err := storesOf(req)
	if err != nil {
		return storeConfig{}, err
	}
	refuse := func(hint, format string, args ...any) (storeConfig, error) {
		return storeConfig{}, &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "flag.store", Message: fmt.Sprintf(format, args...), Hint: hint}}}
	}
	c, ok := all[name]
	if !ok {
		return refuse("stores has: "+strings.Join(slices.Sorted(maps.Keys(all)), ", "), "no store is named %q", name)
	}
	at := section + "." + name
	given := 0
	for _, v := range []string{c.Flagd, c.LaunchDarkly, c.Unleash, c.OFREP} {
		if v != "" {
			given++
		}
	}
	remote := c.LaunchDarkly != "" || c.Unleash != ""
	switch {
	case given != 1:
		return refuse("", "%s has to say exactly one of: %s", at, "flagd, launchdarkly, unleash, ofrep")
	case c.Flagd != "" && c.Token != "":
		return refuse("drop it", "%s.token belongs to launchdarkly, unleash and ofrep", at)
	case !remote && (c.Project != "" || c.Environment != ""):
		return refuse("drop them", "%s.project and environment belong to launchdarkly and unleash", at)
	case remote && c.Environment == "":
		return refuse("environment: production", "%s.environment is missing", at)
	case remote && c.Token == "":
		return refuse("token: secret:env/FLAGS_TOKEN", "%s.token is missing", at)
	case c.Token != "" && !strings.HasPrefix(c.Token, "secret:"):
		return refuse("use a secret reference: secret:env/FLAGS_TOKEN", "%s.token is written out, and would be kept in the plan", at)
	}
	if c.Flagd != "" {
		if !filepath.IsAbs(c.Flagd) {
			c.Flagd = filepath.Join(req.Dir, c.Flagd)
		}
		c.Flagd = filepath.Clean(c.Flagd)
		return c, nil
	}
	u, err := url.Parse(c.address())
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return refuse("such as https://flags.example.com", "%s is not an http or https URL", at)
	case u.User != nil:
		return refuse("use token: secret:…", "%s holds a user name or password, which would be kept in the plan", at)
	}
	if remote && c.Project == "" {
		c.Project = "default"
	}
	return c, nil
}

func (c storeConfig) address() string { return c.LaunchDarkly + c.Unleash + c.OFREP }

// host is the address without its scheme: what tells stores apart.
func (c storeConfig) host() string {
	_, rest, _ := strings.Cut(c.address(), "://")
	return strings.TrimSuffix(rest, "/")
}

// key is the ledger's key of a flag in this store: by where it is, whatever
// the spec calls it. No key of Backstay's own store has a slash.
func (c storeConfig) key(flag string) backstay.Key {
	switch {
	case c.Flagd != "":
		return backstay.Key("flag:flagd/" + strings.TrimPrefix(c.Flagd, "/") + "/" + flag)
	case c.LaunchDarkly != "":
		return backstay.Key(strings.Join([]string{"flag:launchdarkly", c.host(), c.Project, c.Environment, flag}, "/"))
	}
	return backstay.Key(strings.Join([]string{"flag:unleash", c.host(), c.Project, c.Environment, flag}, "/"))
}

// words say which flag it is, for people.
func (c storeConfig) words(flag string) string {
	switch {
	case c.Flagd != "":
		return flag + " in " + c.Flagd
	case c.LaunchDarkly != "":
		return flag + " in LaunchDarkly, " + c.Project + "/" + c.Environment
	}
	return flag + " in Unleash, " + c.Project + "/" + c.Environment
}

// token resolves the store's token.
func (c storeConfig) token(secrets backstay.Secrets) (string, error) {
	if c.Token == "" {
		return "", nil
	}
	if secrets == nil {
		return "", backstay.Classify(backstay.Permanent, errors.New("nothing resolves secret references here"))
	}
	token, err := secrets.Resolve(c.Token)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", c.Token, err)
	}
	return token, nil
}

// open makes the store of one flag. It does not connect.
func (c storeConfig) open(flag string, secrets backstay.Secrets) (store.Store, error) {
	token, err := c.token(secrets)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Flagd != "":
		return flagd.New(c.Flagd, flag), nil
	case c.LaunchDarkly != "":
		return launchdarkly.New(launchdarkly.Config{URL: c.LaunchDarkly, Token: token, Project: c.Project, Environment: c.Environment, Key: flag}), nil
	case c.Unleash != "":
		return unleash.New(unleash.Config{URL: c.Unleash, Token: token, Project: c.Project, Environment: c.Environment, Key: flag}), nil
	}
	return nil, backstay.Classify(backstay.Permanent, errors.New("this binary does not know its store: use the backstay version that planned this deployment"))
}
