package flag

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/driver/flag/ofrep"
)

var _ driver.Checker = (*Driver)(nil)

// checkConfig are the keys of a flag check.
type checkConfig struct {
	Flag checkKeys `yaml:"flag" json:"flag" required:"true" doc:"Ask an OFREP server what a flag gives: what programs get, whoever's flag it is." example:"{store: edge, key: new-checkout, as: [qa-1], gives: \"true\"}"`
}

type checkKeys struct {
	Store string   `yaml:"store" json:"store" required:"true" ref:"stores" doc:"The store to ask: one with ofrep." example:"edge"`
	Key   string   `yaml:"key" json:"key" required:"true" doc:"The flag." example:"new-checkout"`
	As    []string `yaml:"as" json:"as,omitempty" doc:"The users (targeting keys) to ask for. Default: one called backstay." example:"[qa-1, qa-2]"`
	Gives string   `yaml:"gives" json:"gives" required:"true" doc:"What each of them must get: the name of the variant, or the value." example:"\"true\""`
}

// checkBody is a frozen check.
type checkBody struct {
	V     int         `json:"v"`
	Store storeConfig `json:"store"`
	checkKeys
}

const defaultUser = "backstay"

// CheckConfig returns a check's keys.
func (*Driver) CheckConfig() any { return &checkConfig{} }

// PrepareCheck freezes a check.
func (d *Driver) PrepareCheck(_ context.Context, req backstay.Request) (backstay.Prepared, error) {
	var c checkConfig
	if err := json.Unmarshal(req.Config, &c); err != nil {
		return backstay.Prepared{}, fmt.Errorf("decode flag check: %w", err)
	}
	b := checkBody{V: bodyFormat, checkKeys: c.Flag}
	var err error
	if b.Store, err = storeOf(req, c.Flag.Store); err != nil {
		return backstay.Prepared{}, err
	}
	if b.Store.OFREP == "" {
		return backstay.Prepared{}, &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{
			Path: "flag.store", Message: "store " + c.Flag.Store + " is not asked what programs get", Hint: "name one with ofrep: stores: {edge: {ofrep: \"http://127.0.0.1:8016\"}}",
		}}}
	}
	if len(b.As) == 0 {
		b.As = []string{defaultUser}
	}
	p := backstay.Prepared{Kind: d.Name(), Body: backstay.Canonical(b), Timeout: timeout, Summary: fmt.Sprintf("flag %s gives %s, as %s tells", b.Key, b.Gives, b.Store.host())}
	if b.Store.Token != "" {
		p.Secrets = []string{b.Store.Token}
	}
	return p, nil
}

// Check asks once.
func (*Driver) Check(ctx context.Context, call backstay.Call) (backstay.CheckResult, error) {
	var b checkBody
	if err := json.Unmarshal(call.Step.Body, &b); err != nil {
		return backstay.CheckResult{}, fmt.Errorf("read flag check %s: %w", call.Step.ID, err)
	}
	return b.check(ctx, call.Secrets)
}

// check asks for every user. No answer is no verdict.
func (b checkBody) check(ctx context.Context, secrets backstay.Secrets) (backstay.CheckResult, error) {
	token, err := b.Store.token(secrets)
	if err != nil {
		return backstay.CheckResult{}, err
	}
	server := ofrep.New(b.Store.OFREP, token)
	for i, user := range b.As {
		a, err := server.Ask(ctx, b.Key, user)
		if err != nil {
			return backstay.CheckResult{}, err
		}
		value := strings.Trim(string(a.Value), `"`)
		if a.Variant != b.Gives && value != b.Gives {
			got := value
			if a.Variant != "" && a.Variant != value {
				got += " (variant " + a.Variant + ")"
			}
			return backstay.CheckResult{Verdict: backstay.Fail, Samples: i + 1, Reason: fmt.Sprintf("flag %s gives %s to %s, not %s", b.Key, got, user, b.Gives)}, nil
		}
	}
	return backstay.CheckResult{Verdict: backstay.Pass, Samples: len(b.As), Reason: fmt.Sprintf("flag %s gives %s", b.Key, b.Gives)}, nil
}
