package spec_test

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
	"github.com/backstay-dev/backstay/internal/spec"
)

var _ spec.Kinds = (*driver.Registry)(nil)

// command is text for a shell or a list of arguments, as a kind would have it.
type command struct {
	Shell string
	Argv  []string
}

func (c *command) UnmarshalJSON(data []byte) error {
	switch data[0] {
	case '"':
		return json.Unmarshal(data, &c.Shell)
	case '[':
		return json.Unmarshal(data, &c.Argv)
	}
	return fmt.Errorf("want text or a list")
}

func (c command) MarshalJSON() ([]byte, error) {
	if c.Argv != nil {
		return json.Marshal(c.Argv)
	}
	return json.Marshal(c.Shell)
}

func (command) SpecShape() []string { return []string{"string", "strings"} }

func (command) SpecShell() {}

// percent is a text such as "10%".
type percent string

func (p *percent) UnmarshalText(text []byte) error {
	if !strings.HasSuffix(string(text), "%") {
		return fmt.Errorf("%q is not a percentage such as 10%%", text)
	}
	*p = percent(text)
	return nil
}

type runConfig struct {
	Run          command           `yaml:"run" json:"run" required:"true" doc:"The command." example:"./warm-cache.sh"`
	Undo         *command          `yaml:"undo" json:"undo,omitempty" doc:"What takes it back." example:"./drop-cache.sh"`
	Irreversible string            `yaml:"irreversible" json:"irreversible,omitempty" doc:"Why it cannot be undone." example:"mails are sent"`
	Env          map[string]string `yaml:"env" json:"env,omitempty" doc:"Environment." example:"{LANG: C}"`
	Touches      []string          `yaml:"touches" json:"touches,omitempty" doc:"Paths it changes." example:"[/etc/shop]"`
}

type runCheck struct {
	Run command `yaml:"run" json:"run" required:"true" doc:"The command." example:"./smoke.sh"`
}

type fileKeys struct {
	Path    string         `yaml:"path" json:"path" required:"true" doc:"Where it goes." example:"/etc/shop/shop.conf"`
	From    string         `yaml:"from" json:"from,omitempty" doc:"Source." example:"config/shop.conf"`
	Content *string        `yaml:"content" json:"content,omitempty" doc:"Text." example:"hello"`
	Mode    string         `yaml:"mode" json:"mode,omitempty" doc:"Permission bits." example:"\"0644\""`
	Vars    map[string]any `yaml:"vars" json:"vars,omitempty" doc:"Values for a template." example:"{port: 80}"`
}

type fileConfig struct {
	File fileKeys `yaml:"file" json:"file" required:"true" doc:"The file."`
}

type releaseKeys struct {
	Service  string    `yaml:"service" json:"service" required:"true" ref:"services" doc:"The service." example:"web"`
	Strategy string    `yaml:"strategy" json:"strategy,omitempty" enum:"canary,blue-green,rolling" doc:"How." example:"canary"`
	Through  []percent `yaml:"through" json:"through,omitempty" doc:"Shares of traffic." example:"[1%, 100%]"`
	Gates    []string  `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"Evidence." example:"[errors]"`
	Weight   int8      `yaml:"weight" json:"weight,omitempty" doc:"A small number." example:"10"`
	Ratio    float64   `yaml:"ratio" json:"ratio,omitempty" doc:"A number." example:"0.5"`
	Warm     bool      `yaml:"warm" json:"warm,omitempty" doc:"Keep warm." example:"true"`
}

type releaseConfig struct {
	Release releaseKeys `yaml:"release" json:"release" required:"true" doc:"The release."`
}

type httpKeys struct {
	URL    string `yaml:"url" json:"url" required:"true" doc:"Address." example:"http://127.0.0.1/"`
	Status uint16 `yaml:"status" json:"status,omitempty" doc:"Expected status." example:"200"`
}

// call is a URL or httpKeys.
type call struct{ httpKeys }

func (c *call) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &c.URL)
	}
	if err := json.Unmarshal(data, &c.httpKeys); err != nil {
		return err
	}
	if c.Status == 418 {
		return &backstay.RefusedError{What: "spec", Problems: []backstay.Problem{
			{Path: "status", Message: "a teapot is no server", Hint: "use another"},
		}}
	}
	return nil
}

func (call) SpecShape() []string { return []string{"string", "mapping"} }
func (call) SpecFields() any     { return &httpKeys{} }

type httpConfig struct {
	HTTP call `yaml:"http" json:"http" required:"true" doc:"The call." example:"http://127.0.0.1:8080/healthz"`
}

// approveKeys stand below the kind's name: the other form of a config.
type approveKeys struct {
	From   []string          `yaml:"from" json:"from,omitempty" doc:"Groups." example:"[sre]"`
	Count  int               `yaml:"count" json:"count,omitempty" doc:"How many." example:"1"`
	Within backstay.Duration `yaml:"within" json:"within,omitzero" doc:"How long." example:"2h"`
}

type readyKeys struct {
	HTTP   string            `yaml:"http" json:"http,omitempty" doc:"Path." example:"/healthz"`
	Within backstay.Duration `yaml:"within" json:"within,omitzero" doc:"Deadline." example:"20s"`
}

type placed struct {
	User string `yaml:"user" json:"user,omitempty" doc:"Who runs it." example:"shop"`
}

type serviceEntry struct {
	placed    `yaml:",inline"`
	Artifact  string            `yaml:"artifact" json:"artifact" required:"true" ref:"artifacts" doc:"The artifact." example:"web"`
	Command   command           `yaml:"command" json:"command" required:"true" doc:"How it is started." example:"[web, --listen, :80]"`
	Instances int               `yaml:"instances" json:"instances,omitempty" doc:"How many." example:"2"`
	Ready     *readyKeys        `yaml:"ready" json:"ready,omitempty" doc:"When it is ready."`
	Drain     backstay.Duration `yaml:"drain" json:"drain,omitzero" doc:"How long to drain." example:"10s"`
}

type gateEntry struct {
	Compare string  `yaml:"compare" json:"compare" required:"true" enum:"error-rate,latency" doc:"What." example:"latency"`
	Margin  percent `yaml:"margin" json:"margin,omitempty" doc:"How much worse." example:"10%"`
}

// fakeKinds stands for the registry: the kinds differ in how they decode.
type fakeKinds struct{}

func (fakeKinds) Names() []string { return []string{"approve", "file", "http", "release", "run"} }

func (fakeKinds) Config(kind string) (any, bool) {
	switch kind {
	case "approve":
		return &approveKeys{}, true
	case "file":
		return &fileConfig{}, true
	case "http":
		return &httpConfig{}, true
	case "release":
		return &releaseConfig{}, true
	case "run":
		return &runConfig{}, true
	}
	return nil, false
}

func (fakeKinds) CheckNames() []string { return []string{"compare", "http", "run"} }

func (fakeKinds) CheckConfig(kind string) (any, bool) {
	switch kind {
	case "compare":
		return &gateEntry{}, true
	case "http":
		return &httpConfig{}, true
	case "run":
		return &runCheck{}, true
	}
	return nil, false
}

func (fakeKinds) Sections() map[string]any {
	return map[string]any{"services": &serviceEntry{}}
}
