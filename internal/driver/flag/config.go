package flag

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/flag/model"
)

type stepConfig struct {
	Flag flagConfig `yaml:"flag" json:"flag" required:"true" doc:"Move a feature flag, in the ledger's own store or another." example:"{key: new-checkout, through: [10%, 100%], gates: [errors]}"`
}

type flagConfig struct {
	Key        string `yaml:"key" json:"key" required:"true" doc:"The flag." example:"new-checkout"`
	Store      string `yaml:"store" json:"store,omitempty" ref:"stores" doc:"Where the flag is: an entry of stores. Default: Backstay's own store, in the ledger." example:"ld"`
	Turn       string `yaml:"turn" json:"turn,omitempty" enum:"on,off" doc:"Turn it on or off, as it is." example:"\"off\""`
	Variant    string `yaml:"variant" json:"variant,omitempty" doc:"What to give to those whom no target and no rule matches: the name of a variation, its text or its number. With percentage or through: to so many of them. Default: true, or the only other one." example:"blue"`
	Percentage *Share `yaml:"percentage" json:"percentage,omitempty" doc:"How many get the variant; the others keep what they have." example:"10%"`
	From       string `yaml:"from" json:"from,omitempty" doc:"A file with the whole definition, in LaunchDarkly's JSON, relative to the spec's directory. It makes the flag where there is none." example:"flags/new-checkout.json"`
	Purpose    string `yaml:"purpose" json:"purpose,omitempty" doc:"What the flag is for. The plan warns where it was for something else." example:"the new checkout"`

	Through []Stage           `yaml:"through" json:"through,omitempty" doc:"Growing shares: the plan expands the step into moves with gates between them." example:"[1%, 10%, 50%, 100%]"`
	Hold    backstay.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long to stay at each share before the last, and after a single move. Default: no time." example:"5m"`
	Gates   []string          `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"What must pass at each share before the last, and after a single move. One that fails rolls back at once." example:"[errors]"`
	Within  backstay.Duration `yaml:"within" json:"within,omitempty" doc:"How long each share may stay without an answer of its gates, which is no pass. Default: hold and 10m." example:"30m"`
	Test    *testConfig       `yaml:"test" json:"test,omitempty" doc:"Try it as one user before anybody else gets it." example:"{as: qa-1, gates: [checkout-works]}"`
	Tester  string            `yaml:"tester" json:"tester,omitempty" doc:"One user who gets the variant before everybody has it. Test sets it." example:"qa-1"`
}

type testConfig struct {
	As    string   `yaml:"as" json:"as" required:"true" doc:"The user (targeting key) who gets the variant first." example:"qa-1"`
	Gates []string `yaml:"gates" json:"gates" required:"true" ref:"gates" doc:"What must pass as that user." example:"[checkout-works]"`
}

// Share is a part of all users, in thousandths of a percent.
type Share int

// SpecShape says that a share is a text, or a plain number.
func (Share) SpecShape() []string { return []string{"string", "number"} }

// UnmarshalJSON reads "10%", "0.5%" or 10.
func (s *Share) UnmarshalJSON(data []byte) error {
	n, err := model.ParseShare(strings.Trim(string(data), `"`))
	*s = Share(n)
	return err
}

// MarshalJSON writes "10%".
func (s Share) MarshalJSON() ([]byte, error) {
	return json.Marshal(model.FormatShare(int(s))) //nolint:wrapcheck // a text always is
}

// Stage is one share of a way through: a whole percentage, or that with what
// holds there.
type Stage struct {
	Weight int               `json:"weight"`
	Hold   backstay.Duration `json:"hold,omitempty"`
	Gates  []string          `json:"gates,omitempty"`
}

type stageMapping struct {
	Weight Share             `yaml:"weight" json:"weight,omitempty" doc:"The share of users." example:"10%"`
	Hold   backstay.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long to stay here." example:"10m"`
	Gates  []string          `yaml:"gates" json:"gates,omitempty" ref:"gates" doc:"What must pass here." example:"[errors]"`
}

// SpecShape says that a stage is written in two ways.
func (Stage) SpecShape() []string { return []string{"string", "mapping"} }

// SpecFields describes the long form.
func (Stage) SpecFields() any { return &stageMapping{} }

// UnmarshalJSON reads both forms.
func (s *Stage) UnmarshalJSON(data []byte) error {
	var m stageMapping
	var err error
	if len(data) > 0 && data[0] != '{' {
		err = json.Unmarshal(data, &m.Weight)
	} else {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return err //nolint:wrapcheck // says enough
	}
	if m.Weight <= 0 || m.Weight%1000 != 0 {
		return fmt.Errorf("%s is not a whole share from 1%% to 100%%", model.FormatShare(int(m.Weight)))
	}
	*s = Stage{Weight: int(m.Weight) / 1000, Hold: m.Hold, Gates: m.Gates}
	return nil
}

// SpecProblems says what the keys mean together that they must not.
func (c *stepConfig) SpecProblems() []backstay.Problem {
	var all []backstay.Problem
	refuse := func(path, message, hint string) {
		all = append(all, backstay.Problem{Path: "flag." + path, Message: message, Hint: hint})
	}
	f := c.Flag
	if why := model.CheckKey(f.Key); f.Key != "" && why != "" {
		refuse("key", why, "")
	}
	ways := 0
	for _, given := range []bool{f.Turn != "", f.Percentage != nil, len(f.Through) > 0} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		refuse("key", "the step has several of turn, percentage and through", "keep one of them")
	case ways == 0 && f.Variant == "" && f.From == "" && f.Test == nil && f.Tester == "":
		refuse("key", "nothing says what to do with the flag", "give turn, variant, percentage, through or from")
	case f.Turn != "" && f.Variant != "":
		refuse("variant", "turn takes no variant", "leave turn out: a variant turns the flag on")
	case f.Turn == "off" && (f.Test != nil || f.Tester != ""):
		refuse("test", "there is nothing to try as a user where the flag is turned off", "")
	}
	last := 0
	for i, s := range f.Through {
		if s.Weight <= last {
			refuse("through", fmt.Sprintf("through[%d]: %d%% does not follow %d%%", i, s.Weight, last), "shares grow; going back is one move")
		}
		last = s.Weight
	}
	if f.Test != nil && len(f.Test.Gates) == 0 {
		refuse("test", "no gate says whether it works for that user", "name one in test.gates")
	}
	if f.Within > 0 && f.Within <= f.Hold {
		refuse("within", fmt.Sprintf("%s is over before hold, %s, is", f.Within, f.Hold), "give more, or leave it out")
	}
	if f.Tester != "" && f.Test != nil {
		refuse("tester", "test names the tester", "leave tester out")
	}
	return all
}
