package promote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver/migration/session"
)

const (
	defaultWithin  = backstay.Duration(30e9)
	defaultTimeout = backstay.Duration(300e9)
)

// stepConfig are the keys of a promote step.
type stepConfig struct {
	Promote config `yaml:"promote" json:"promote" required:"true" doc:"Move a PostgreSQL cluster to its streaming standby: fence the primary, wait for the rest, promote." example:"{primary: \"secret:env/PRIMARY_URL\", standby: \"secret:env/STANDBY_URL\"}"`
}

type config struct {
	Primary     string            `yaml:"primary" json:"primary" required:"true" doc:"The URL of the server that takes writes now, as a reference to a secret." example:"secret:env/PRIMARY_URL"`
	Standby     string            `yaml:"standby" json:"standby" required:"true" doc:"The URL of its streaming standby, as a reference to a secret." example:"secret:env/STANDBY_URL"`
	Maintenance string            `yaml:"maintenance" json:"maintenance,omitempty" doc:"The database from which the others are closed and opened; it stays open. Default: postgres." example:"admin"`
	Within      backstay.Duration `yaml:"within" json:"within,omitempty" doc:"How long the standby may take to replay the rest while everybody waits; after that the primary is opened again. Default: 30s." example:"10s"`
}

func (c config) validate() (problems []backstay.Problem) {
	for key, value := range map[string]string{"primary": c.Primary, "standby": c.Standby} {
		if !strings.HasPrefix(value, session.SecretPrefix) {
			// Not repeated: it may hold a password.
			problems = append(problems, backstay.Problem{Path: "promote." + key, Message: "is no reference to a secret", Hint: "put the URL into a variable or file and write secret:env/NAME or secret:file/PATH"})
		}
	}
	if c.Primary == c.Standby {
		problems = append(problems, backstay.Problem{Path: "promote.standby", Message: "is the primary itself"})
	}
	if strings.ContainsAny(c.Maintenance, "/?#\x00") {
		problems = append(problems, backstay.Problem{Path: "promote.maintenance", Message: fmt.Sprintf("%q is not the name of a database", c.Maintenance)})
	}
	slices.SortFunc(problems, func(a, b backstay.Problem) int { return strings.Compare(a.Path, b.Path) })
	return problems
}

// Prepare checks that the standby could be promoted now.
func (*Kind) Prepare(ctx context.Context, req backstay.Request) (out backstay.Prepared, err error) {
	var sc stepConfig
	if err := json.Unmarshal(req.Config, &sc); err != nil {
		return out, fmt.Errorf("decode promote step: %w", err)
	}
	cfg := sc.Promote
	if problems := cfg.validate(); len(problems) > 0 {
		return out, &backstay.RefusedError{What: "spec", Problems: problems}
	}
	if req.Secrets == nil {
		// Only the declaration is checked: there is nothing to reach a server with.
		return backstay.Prepared{Kind: "promote"}, nil
	}
	refuse := func(key string, err error) error {
		return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{{Path: "promote." + key, Message: err.Error(), Hint: backstay.HintOf(err)}}}
	}
	p := &pair{body: body{V: bodyFormat, Primary: cfg.Primary, Standby: cfg.Standby, Maintenance: cfg.Maintenance, Within: orDefault(cfg.Within, defaultWithin)}}
	if p.body.Maintenance == "" {
		p.body.Maintenance = "postgres"
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if p.primary, err = open(ctx, req.Secrets, cfg.Primary, p.body.Maintenance); err != nil {
		return out, refuse("primary", err)
	}
	if p.standby, err = open(ctx, req.Secrets, cfg.Standby, p.body.Maintenance); err != nil {
		return out, refuse("standby", err)
	}
	if p.body.System = p.primary.system; p.standby.system != p.body.System {
		return out, refuse("standby", fmt.Errorf("is of another cluster (%s) than the primary (%s)", p.standby.system, p.body.System))
	}
	if err := p.ready(ctx); err != nil {
		return out, refuse("standby", err)
	}
	here, err := p.primary.state(ctx)
	if err != nil {
		return out, err
	}
	return promise(req, p.body, here.Open), nil
}

// promise says what the step is worth: no way back.
func promise(req backstay.Request, b body, databases []string) backstay.Prepared {
	out := backstay.Prepared{
		Kind: "promote", Body: backstay.Canonical(b), Keys: []backstay.Key{backstay.Key("cluster:postgres/" + b.System)}, Effect: backstay.Idempotent,
		Class: backstay.Irreversible, Fence: backstay.Leased, Window: b.Within,
		Irreversible: "after the promotion the old primary lacks what the new one wrote, and stays closed",
		Timeout:      orDefault(req.Timeout, defaultTimeout), UndoTimeout: orDefault(req.UndoTimeout, defaultTimeout),
		Summary:     fmt.Sprintf("close %s on the primary, wait until the standby has all of it, promote it", strings.Join(databases, ", ")),
		ReadSummary: "which server takes writes",
		Secrets:     []string{b.Primary, b.Standby},
		Warnings:    []string{"all databases of the cluster but " + b.Maintenance + " are closed until the standby is promoted: whoever uses them waits or fails"},
	}
	if req.Retries != nil {
		out.Retries = *req.Retries
	}
	return out
}

func orDefault(d, standard backstay.Duration) backstay.Duration {
	if d > 0 {
		return d
	}
	return standard
}
