package plan

import (
	"encoding/json"
	"fmt"

	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/spec"
)

// flagKind is the kind that moves feature flags.
const flagKind = "flag"

// flagConfig are the keys of a flag step: those that the kind reads, and those
// that make several steps of it.
type flagConfig struct {
	Flag flagKeys `json:"flag"`
}

type flagKeys struct {
	Key        string `json:"key"`
	Store      string `json:"store,omitempty"`
	Turn       string `json:"turn,omitempty"`
	Variant    string `json:"variant,omitempty"`
	Percentage string `json:"percentage,omitempty"`
	From       string `json:"from,omitempty"`
	Purpose    string `json:"purpose,omitempty"`
	Tester     string `json:"tester,omitempty"`

	Through []spec.ReleaseStage `json:"through,omitempty"`
	Hold    backstay.Duration   `json:"hold,omitempty"`
	Gates   []string            `json:"gates,omitempty"`
	Within  backstay.Duration   `json:"within,omitempty"`
	Test    *flagTest           `json:"test,omitempty"`
}

type flagTest struct {
	As    string   `json:"as"`
	Gates []string `json:"gates"`
}

// expose turns a flag step with gates into moves of one dial with waits between
// them: the tester alone, the growing shares, each with its gate before the next.
// The tester keeps the variant until everybody has it. It returns false for a
// step that is one move already.
func (x *expansion) expose(st spec.Step) bool {
	var c flagConfig
	if json.Unmarshal(st.Config, &c) != nil {
		return false // of a kind of this name: not ours
	}
	k := c.Flag
	if len(k.Through) == 0 && k.Hold == 0 && len(k.Gates) == 0 && k.Test == nil {
		return false
	}
	one := k
	one.Through, one.Hold, one.Gates, one.Within, one.Test = nil, 0, nil, 0, nil
	u := unfolding{expansion: x, from: st, needs: st.Needs}
	u.keys.Hold, u.keys.Gates, u.keys.Within = k.Hold, k.Gates, k.Within
	if k.Test != nil {
		first := one
		first.Tester, first.Turn, first.Percentage = k.Test.As, "", ""
		u.add("tester", flagKind, flagConfig{first})
		u.gate("test", gateKeys{Gates: k.Test.Gates, Within: k.Within}, 0)
	}
	for i, stage := range k.Through {
		to := one
		to.Percentage = fmt.Sprintf("%d%%", stage.Weight)
		if k.Test != nil && stage.Weight < 100 {
			to.Tester = k.Test.As
		}
		u.add(fmt.Sprintf("to-%d", stage.Weight), flagKind, flagConfig{to})
		if i < len(k.Through)-1 || len(k.Through) == 1 {
			u.watch(stage)
		}
	}
	if len(k.Through) == 0 && (k.Turn != "" || k.Variant != "" || k.Percentage != "" || k.From != "" || k.Tester != "") {
		u.add("move", flagKind, flagConfig{one})
		u.watch(spec.ReleaseStage{Weight: 100})
	}
	x.last[st.ID] = u.needs[0]
	return true
}
